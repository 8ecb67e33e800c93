// Package peerpb is the protobuf of the service that nodes offer each other. It is generated from
// peer.proto; `make generate` does that.
package peerpb
