// Package lab is a cluster of `hizod server` processes, each in its own network namespace, that a chaos run breaks:
// cables are cut with nftables, processes killed, stopped and started again. Nothing outside the run's own user,
// network and mount namespaces is touched.
//
//	this process          its own network namespace: the bridge br0, 10.77.0.254; clients and checkers live here
//	  n1 … nN             a namespace each: eth0 10.77.0.1 … N, on the bridge by a veth pair
//
// Every packet between two nodes passes the bridge, where Capture reads them.
package lab

// Ports of every node, in its own namespace.
const (
	ClientPort = 8410
	PeerPort   = 8411
	GossipPort = 8412
)
