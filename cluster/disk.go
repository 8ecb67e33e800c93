package cluster

import "fmt"

// DiskStatus is how much room the data directory has.
type DiskStatus struct {
	Free    uint64 // bytes that this process may still write, what it has set aside included
	Total   uint64 // of the file system
	Reserve uint64 // bytes below which the node takes no writes; 0: it does not look
	Low     bool   // below the reserve: this node does not lead
	Full    bool   // nearly nothing left: it does not follow either
}

// Say is for operators.
func (d DiskStatus) Say() string {
	return fmt.Sprintf("%d MiB are free where data_dir lies, and %d MiB are reserved: free some space there; this node goes on by itself then",
		d.Free>>20, d.Reserve>>20)
}
