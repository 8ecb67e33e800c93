package main

import (
	"fmt"
	"math/rand/v2"

	"github.com/hizo/hizo/chaos/fault"
	"github.com/hizo/hizo/chaos/lab"
)

// world is what a seed's cluster is made of.
type world struct {
	Nodes  int
	HSM    string
	Probed bool // hizod with probes
	Disks  bool // disks that obey
}

// world of a seed: what was asked for, and drawn from the seed where nothing was.
func (o options) world(seed uint64) world {
	rng := rand.New(rand.NewPCG(seed, 0x301d))
	w := world{Nodes: o.nodes, HSM: o.hsm}
	five, probed, disks := rng.IntN(4) == 0, rng.IntN(3) > 0, rng.IntN(2) == 0
	if w.Nodes == 0 {
		w.Nodes = 3
		if five {
			w.Nodes = 5
		}
	}
	w.Probed = o.probed != "" && (probed || o.hizod == "")
	w.Disks = o.disks == "fuse" || o.disks == "auto" && disks
	return w
}

func (w world) config(o options, dir string) lab.Config {
	c := lab.Config{Dir: dir, Hizod: o.hizod, Nodes: w.Nodes, HSM: w.HSM, Probed: w.Probed, Disks: w.Disks}
	if w.Probed {
		c.Hizod = o.probed
	}
	return c
}

func (w world) has() fault.Need {
	var has fault.Need
	if w.Probed {
		has |= fault.Probes
	}
	if w.Disks {
		has |= fault.Disks
	}
	if w.HSM == "softhsm" {
		has |= fault.Tokens
	}
	return has
}

func (w world) String() string {
	text := fmt.Sprintf("%d nodes, %s", w.Nodes, w.HSM)
	if w.Probed {
		text += ", probes"
	}
	if w.Disks {
		text += ", disks"
	}
	return text
}
