//go:build !goexperiment.runtimesecret

package secret

// Do runs f. Built with GOEXPERIMENT=runtimesecret it also erases what f leaves in registers, on the stack
// and in memory that it allocated and let go of.
func Do(f func()) { f() }
