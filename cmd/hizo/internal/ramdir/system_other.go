//go:build !linux

package ramdir

import "os"

func executable() string {
	path, _ := os.Executable()
	return path
}

// inMemory knows no other system's way to tell.
func inMemory(string) bool { return false }
