package main

import (
	"context"
	"testing"

	"github.com/hizo/hizo/api"
	"github.com/hizo/hizo/cluster"
	"github.com/hizo/hizo/cluster/backup"
	"github.com/hizo/hizo/cluster/backup/keeper"
	"github.com/hizo/hizo/fsm"
)

// nodeBackups are a test node's backups, as hizod makes them.
type nodeBackups struct {
	*keeper.Keeper
	node *cluster.Node
}

func (b nodeBackups) Create(ctx context.Context) (fsm.Backup, error) {
	return b.Keeper.Create(ctx, b.node)
}

// keepBackups gives a node of a test cluster a directory that all of them share.
func keepBackups(t *testing.T, dir string, conf *api.Config) {
	place, err := backup.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	k, err := keeper.New(keeper.Config{Place: place, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	conf.Backups = nodeBackups{k, conf.Node.(*cluster.Node)}
}
