//go:build goexperiment.runtimesecret

package secret

import "runtime/secret"

// Do runs f and erases what it leaves in registers, on the stack and in memory that it allocated and let
// go of. It does so in builds with GOEXPERIMENT=runtimesecret on platforms that support it, and just runs
// f otherwise.
func Do(f func()) { secret.Do(f) }
