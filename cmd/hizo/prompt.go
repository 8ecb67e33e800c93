package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// maxInput bounds what is read from standard input; a record of the cluster's log holds less.
const maxInput = 1 << 20

var errInterrupted = errors.New("interrupted: nothing was changed")

// ask prompts for a secret without echo. The terminal is restored even when a signal ends the program.
func (s *session) ask(prompt string) ([]byte, error) {
	fd := int(s.stdin.Fd())
	// Echo ends before the prompt appears: ReadPassword alone would show what is typed in between.
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("prompt: %w", err)
	}
	fmt.Fprintf(s.stderr, "%s: ", prompt)
	type answer struct {
		text []byte
		err  error
	}
	answered := make(chan answer, 1)
	go func() { // ends with the read, or with the program
		text, err := term.ReadPassword(fd)
		answered <- answer{text, err}
	}()
	select {
	case <-s.ctx.Done():
		err := term.Restore(fd, before)
		fmt.Fprintln(s.stderr)
		return nil, errors.Join(errInterrupted, err)
	case a := <-answered:
		a.err = errors.Join(a.err, term.Restore(fd, before))
		fmt.Fprintln(s.stderr)
		if a.err != nil {
			clear(a.text)
			return nil, fmt.Errorf("prompt: %w", a.err)
		}
		return a.text, nil
	}
}

// password reads one from standard input, or asks for it: twice where it is new.
func (s *session) password(prompt string, fromStdin, isNew bool) ([]byte, error) {
	if fromStdin {
		return s.stdinSecret(prompt)
	}
	if !s.interactive() {
		return nil, fmt.Errorf("%s: there is no terminal to ask at: pass it by --password-stdin", prompt)
	}
	p, err := s.ask(prompt)
	if err != nil {
		return nil, err
	}
	if len(p) == 0 {
		return nil, fmt.Errorf("%s: nothing was entered: try again", prompt)
	}
	if isNew {
		again, err := s.ask(prompt + " again")
		if err != nil {
			return nil, err
		}
		defer clear(again)
		if !bytes.Equal(p, again) {
			clear(p)
			return nil, fmt.Errorf("%s: the two entries differ: try again", prompt)
		}
	}
	return p, nil
}

// stdinSecret reads all of standard input without the last line's end.
func (s *session) stdinSecret(what string) ([]byte, error) {
	b, err := s.stdinAll()
	if err != nil {
		return nil, err
	}
	b = trimNewline(b)
	if len(b) == 0 {
		return nil, fmt.Errorf("%s: standard input is empty: pipe it in", what)
	}
	return b, nil
}

func (s *session) stdinAll() ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(s.stdin, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	if len(b) > maxInput {
		clear(b)
		return nil, fmt.Errorf("standard input: more than %d bytes, which no record holds: store a smaller value", maxInput)
	}
	return b, nil
}

func trimNewline(b []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
}

// confirm asks a yes-or-no question; with yes it is answered already.
func (s *session) confirm(question string, yes bool) error {
	if yes {
		return nil
	}
	if !s.interactive() {
		return fmt.Errorf("%s There is no terminal to ask at: pass --yes to confirm", question)
	}
	fmt.Fprintf(s.stderr, "%s Type yes to go on: ", printable(question))
	line, err := s.line()
	if err != nil {
		return err
	}
	if line != "yes" {
		return errInterrupted
	}
	return nil
}

// line reads one line from the terminal.
func (s *session) line() (string, error) {
	type answer struct {
		text string
		err  error
	}
	answered := make(chan answer, 1)
	go func() { // ends with the read, or with the program
		text, err := bufio.NewReader(s.stdin).ReadString('\n')
		answered <- answer{strings.TrimSpace(text), err}
	}()
	select {
	case <-s.ctx.Done():
		return "", errInterrupted
	case a := <-answered:
		if a.err != nil && a.text == "" {
			return "", fmt.Errorf("prompt: %w", a.err)
		}
		return a.text, nil
	}
}

// readSecretFile reads a credential from a file, or from standard input for "-", without the last line's end.
func (s *session) readSecretFile(path, what string) ([]byte, error) {
	if path == "-" {
		return s.stdinSecret(what)
	}
	s.warnIfReadable(path)
	b, err := readFile(path, maxInput)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: there is no file %s: check the path", what, path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	b = trimNewline(b)
	if len(b) == 0 {
		return nil, fmt.Errorf("%s: the file %s is empty", what, path)
	}
	return b, nil
}
