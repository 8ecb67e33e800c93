package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
)

// Whoever sets up a rotation chooses where a node sends requests to. Those that a node could reach and he could not are
// refused: the node itself, its neighbours on the link, the metadata services of clouds, and the cluster. The check is
// made on the address that is about to be dialled, so a name that resolves to something else the second time gains nothing.

// guarded are refused unless the node's own file allows them.
var guarded = func() []netip.Prefix {
	var all []netip.Prefix
	for _, text := range []string{
		"0.0.0.0/8", "::/128", // this host, on Linux
		"127.0.0.0/8", "::1/128", // loopback
		"169.254.0.0/16", "fe80::/10", // link-local: most metadata services
		"fd00:ec2::/32", "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32", // the other ones: AWS, Alibaba, Oracle, Azure
		"224.0.0.0/4", "ff00::/8", "255.255.255.255/32", // many at once
		"64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96", // IPv4 in IPv6 (NAT64, 6to4, Teredo): any of the above
	} {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}()

// guard decides about addresses.
type guard struct {
	allow   []netip.Prefix
	cluster func() []string // hosts of the members, names or addresses
}

var errGuarded = errors.New("refused by this node")

// control is called by a dialler with each address before it connects.
func (g guard) control(ctx context.Context, _, address string, _ syscall.RawConn) error {
	where, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %v", errGuarded, err)
	}
	return g.check(ctx, where.Addr())
}

func (g guard) check(ctx context.Context, a netip.Addr) error {
	a = a.Unmap().WithZone("")
	within := func(p netip.Prefix) bool { return p.Contains(a) }
	switch {
	case slices.ContainsFunc(g.allow, within):
		return nil
	case slices.ContainsFunc(guarded, within):
		return fmt.Errorf("%w: %s is this host, its link or a metadata service", errGuarded, a)
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("%w: this host does not tell its addresses: %v", errGuarded, err)
	}
	for _, o := range own {
		if p, err := netip.ParsePrefix(o.String()); err == nil && p.Addr().Unmap() == a {
			return fmt.Errorf("%w: %s is this host", errGuarded, a)
		}
	}
	if g.cluster == nil {
		return nil
	}
	for _, host := range g.cluster() {
		addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			continue // a member that nobody finds is not at this address either
		}
		for _, m := range addresses {
			if m.Unmap() == a {
				return fmt.Errorf("%w: %s is a member of the cluster", errGuarded, a)
			}
		}
	}
	return nil
}
