//go:build !linux

package target

// cmdCloseOnExec: Go opens everything so that it closes; what C libraries open is not known here.
func cmdCloseOnExec() error { return nil }
