package lab

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// Network joins the nodes' namespaces by a bridge. Its rules say what gets through; they are the only state, and are
// laid anew at each change, so that no fault leaves a rest of another behind.
type Network struct {
	nodes int

	mu      sync.Mutex
	rules   map[string][]Rule // by the fault that set them
	dropped map[string]int    // packets, by the fault whose rules did it
}

// Rule drops what arrives at node To from node From (0: any node, but not the clients).
type Rule struct {
	From, To int
	Port     int // destination or source port; 0: all
	UDP      bool
	Percent  int // of the packets; 0 means all
}

// Addr of node i, from 1.
func Addr(i int) string { return fmt.Sprintf("10.77.0.%d", i) }

func namespace(i int) string { return fmt.Sprintf("n%d", i) }

// NewNetwork makes the bridge and the namespaces.
func NewNetwork(nodes int) (*Network, error) {
	steps := [][]string{
		{"link", "add", "br0", "type", "bridge"},
		{"addr", "add", "10.77.0.254/24", "dev", "br0"},
		{"link", "set", "br0", "up"},
	}
	for i := 1; i <= nodes; i++ {
		ns, veth := namespace(i), fmt.Sprintf("veth%d", i)
		steps = append(steps,
			[]string{"netns", "add", ns},
			[]string{"link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", ns},
			[]string{"link", "set", veth, "master", "br0", "up"},
			[]string{"-n", ns, "addr", "add", Addr(i) + "/24", "dev", "eth0"},
			[]string{"-n", ns, "link", "set", "eth0", "up"},
			[]string{"-n", ns, "link", "set", "lo", "up"},
		)
	}
	for _, args := range steps {
		if err := run("ip", args...); err != nil {
			return nil, err
		}
	}
	return &Network{nodes: nodes, rules: make(map[string][]Rule), dropped: make(map[string]int)}, nil
}

// Set lays the rules of a fault; none lifts it.
func (n *Network) Set(fault string, rules ...Rule) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(rules) == 0 {
		delete(n.rules, fault)
	} else {
		n.rules[fault] = rules
	}
	for i := 1; i <= n.nodes; i++ {
		if err := n.lay(i); err != nil {
			return err
		}
	}
	return nil
}

// Heal lifts everything.
func (n *Network) Heal() error {
	n.mu.Lock()
	clear(n.rules)
	n.mu.Unlock()
	return n.Set("")
}

// Dropped says how many packets the rules of a fault have dropped, which it has lifted by now.
func (n *Network) Dropped(fault string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dropped[fault]
}

// counterName is what nft calls a fault's counter.
func counterName(fault string) string { return "of_" + strings.ReplaceAll(fault, "-", "_") }

var counted = regexp.MustCompile(`counter (of_\w+) \{\s*packets (\d+) `)

// count takes the counters of a node's rules over before these are replaced.
func (n *Network) count(node int) {
	out, err := exec.Command("ip", "netns", "exec", namespace(node), "nft", "list", "counters", "table", "inet", "chaos").Output()
	if err != nil {
		return // no table yet
	}
	for _, m := range counted.FindAllStringSubmatch(string(out), -1) {
		packets, _ := strconv.Atoi(m[2])
		n.dropped[strings.ReplaceAll(strings.TrimPrefix(m[1], "of_"), "_", "-")] += packets
	}
}

// lay replaces the rules at the door of one node in one transaction.
func (n *Network) lay(node int) error {
	n.count(node)
	var b strings.Builder
	b.WriteString("table inet chaos {}\ndelete table inet chaos\ntable inet chaos {\n")
	for fault := range n.rules {
		b.WriteString(" counter " + counterName(fault) + " {}\n")
	}
	b.WriteString(" chain in {\n  type filter hook input priority 0; policy accept;\n")
	for fault, rules := range n.rules {
		for _, r := range rules {
			if r.To == node {
				b.WriteString("  " + r.text(counterName(fault)) + "\n")
			}
		}
	}
	b.WriteString(" }\n}\n")
	cmd := exec.Command("ip", "netns", "exec", namespace(node), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(b.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft at node %d: %w: %s", node, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (r Rule) text(counter string) string {
	var parts []string
	if r.From == 0 {
		parts = append(parts, "ip saddr 10.77.0.0/24 ip saddr != 10.77.0.254")
	} else {
		parts = append(parts, "ip saddr "+Addr(r.From))
	}
	if r.Port != 0 {
		proto := "meta l4proto tcp"
		if r.UDP {
			proto = "meta l4proto { tcp, udp }"
		}
		// A node's answer comes from that port, its request goes to it.
		parts = append(parts, proto, fmt.Sprintf("th dport %d", r.Port))
		back := append(append([]string(nil), parts[:len(parts)-1]...), fmt.Sprintf("th sport %d", r.Port))
		return r.drop(parts, counter) + "\n  " + r.drop(back, counter)
	}
	return r.drop(parts, counter)
}

func (r Rule) drop(parts []string, counter string) string {
	text := strings.Join(parts, " ")
	if r.Percent > 0 && r.Percent < 100 {
		text += " numgen random mod 100 < " + strconv.Itoa(r.Percent)
	}
	return text + " counter name " + counter + " drop"
}

// Between cuts both directions between every node of a and every node of b.
func Between(a, b []int) []Rule {
	var rules []Rule
	for _, x := range a {
		for _, y := range b {
			rules = append(rules, Rule{From: x, To: y}, Rule{From: y, To: x})
		}
	}
	return rules
}

// Sweep removes what NewNetwork made, as far as it is there.
func Sweep(nodes int) {
	for i := 1; i <= nodes; i++ {
		_ = run("ip", "netns", "del", namespace(i))
		_ = run("ip", "link", "del", fmt.Sprintf("veth%d", i)) // gone with the namespace, but not at once
	}
	_ = run("ip", "link", "del", "br0")
}
