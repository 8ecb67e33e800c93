package cluster_test

import (
	"testing"

	"github.com/hizo/hizo/cluster/clustertest"
	"github.com/hizo/hizo/fsm"
)

func record(action string) fsm.Command {
	return fsm.Command{Kind: fsm.KindRecord, Principal: "user/test", Audits: []fsm.Audit{{
		Action: action, Resource: "cluster", Decision: fsm.Denied,
	}}}
}

func TestOneNode(t *testing.T) {
	c := clustertest.New(t, clustertest.Options{Nodes: 1})
	c.Init()
	n := c.Nodes[0]
	before := n.Store().AuditSize()
	result := c.Must(record("list"))
	if got := n.Store().AuditSize(); got != before+1 || result.Audit != before {
		t.Fatalf("audit size %d, record %d; want one more than %d", got, result.Audit, before)
	}
}

func TestThreeNodes(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, clustertest.Options{})
	c.Must(record("list"))
}
