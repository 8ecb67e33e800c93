// Package chaos tests Hizo as it is delivered: the binaries of cmd/hizod and cmd/hizo, run as processes, with
// real ports, real disks and real tokens. Its tests break things from the outside (signals, files, wrong
// input) and look at what a user would see: exit codes, messages, and what is on the disks afterwards.
//
// README.md says which promise which test holds.
package chaos
