// Importrule fails when an import breaks the direction in which the packages of this
// repository may depend on each other.
//
//	importrule ROOT
//
// It reads the import clauses of every Go file below ROOT, whatever its build tags, so a
// breach can't hide behind a tag; nested modules, testdata and hidden folders are left out.
// It prints one line per breach and exits 1; a tree without any Go file of the module is an
// error too, because then nothing was checked.
package main

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: importrule ROOT")
		os.Exit(2)
	}
	breaches, files, err := check(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "importrule:", err)
		os.Exit(1)
	}
	for _, b := range breaches {
		fmt.Println(b)
	}
	if len(breaches) > 0 {
		fmt.Fprintf(os.Stderr, "importrule: %d forbidden imports\n", len(breaches))
		os.Exit(1)
	}
	fmt.Printf("importrule: %d files, no forbidden import\n", files)
}

// check returns one line per forbidden import below root and the number of files it read.
func check(root string) (breaches []string, files int, err error) {
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if path != root && skipFolder(path, entry.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		files++
		found, err := checkFile(root, path)
		breaches = append(breaches, found...)
		return err
	})
	if err == nil && files == 0 {
		err = fmt.Errorf("no Go file below %s: nothing was checked", root)
	}
	return breaches, files, err
}

func skipFolder(path, name string) bool {
	if name == "testdata" || name == "vendor" || name[0] == '.' || name[0] == '_' {
		return true
	}
	_, err := os.Stat(filepath.Join(path, "go.mod"))
	return err == nil
}

func checkFile(root, path string) ([]string, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	relative, err := filepath.Rel(root, path)
	if err != nil {
		return nil, err
	}
	folder := filepath.ToSlash(filepath.Dir(relative))
	test := strings.HasSuffix(path, "_test.go")
	var breaches []string
	for _, spec := range file.Imports {
		target, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		if why := breach(folder, test, target); why != "" {
			line := set.Position(spec.Pos()).Line
			breaches = append(breaches, fmt.Sprintf("%s:%d: import %q: %s", filepath.ToSlash(relative), line, target, why))
		}
	}
	return breaches, nil
}
