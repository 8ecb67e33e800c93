package main

import (
	"os"
	"syscall"
)

// sameOwner gives a file the owner of another one, where we may. Failing leaves it ours, as an editor would.
func sameOwner(f *os.File, like os.FileInfo) {
	if st, ok := like.Sys().(*syscall.Stat_t); ok {
		_ = f.Chown(int(st.Uid), int(st.Gid))
	}
}
