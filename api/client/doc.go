// Package client talks to a Hizo cluster.
//
// A Client takes the addresses of some nodes, finds the leader by itself and stays with it. It is a
// grpc.ClientConnInterface, so the generated stubs are used directly:
//
//	c, err := client.New(client.Config{Addrs: addrs, CA: pem, Token: client.TokenFile(path)})
//	put, err := c.Secrets().Put(ctx, &hizov1.PutRequest{…})
//
// # What a call survives
//
// As long as a majority of the nodes lives and the deadline allows, no call fails because a follower was asked, or a leader
// that died, hangs, is cut off, hands over or shuts down:
//
//   - A definite no of one node (it does not lead, is sealed, lost a race) leads to the next attempt: at the
//     leader that the answer names, else at the next address. After every address was tried there is a pause, with
//     exponential back-off and full jitter (Config.BackoffBase, BackoffMax).
//   - An attempt whose fate is unknown (the connection broke, the server says UNKNOWN_OUTCOME) is repeated in the
//     same way. All attempts of one call carry one request id, so a mutation takes effect once.
//   - An address that does not take the connection within 200 ms is left to connect, and the next one is tried beside it:
//     a machine that has lost its power refuses nothing, it is silent.
//   - An attempt that takes longer than Config.SuspectAfter has the other nodes asked whether one of them leads by now.
//     If so, the call goes there: a process that is stopped keeps its connections. Config.AttemptTimeout bounds what is left.
//   - While there is no leader, nodes hold calls for up to a second until there is one, so that an election ends with an
//     answer and not at the end of a pause. The client names the nodes that it has found gone; those that still believe in them
//     hold its call as well.
//
// The call ends at its deadline, which is the context's, or Config.Timeout where that has none.
//
// # How it ends
//
// An *Error says that the call had no effect. Its Reason is one of hizov1's, or UNREACHABLE or TIMEOUT. A mutation that may
// have taken effect ends with *UnknownOutcomeError, never with an error that looks like a failure; it names the request
// id, and within 24 hours the same call under WithRequestID tells what became of it or makes up for it.
//
// # Which node
//
// Addresses may be names, and each address that a name resolves to is a node of its own: one name for the cluster is enough.
// Names are looked up again every Config.ResolveEvery, and at once when nothing else answers. Addresses that leaders are
// known by are learned from answers. A node that failed is asked last for a while (0.25 to 10 s); nothing is refused because
// of that.
//
// Most calls go to the leader. Watches go to any node, spread evenly by rendezvous hashing; a watch that had to leave its node
// goes back to it when that is ready again (Config.ReturnEvery), so that the load is even after a restart of all nodes. It
// misses nothing by that, because it goes on from its cursor.
//
// # Trust
//
// Connections are TLS 1.3 and demand a certificate of the cluster's CA that names hizov1.ServerName, or, before
// there is a CA, one pinned key. Neither addresses nor names are trusted.
//
// A Client is safe for concurrent use and keeps one connection to each node that it has asked. One that is used for more than a
// second keeps connections to up to four other nodes in reserve.
package client
