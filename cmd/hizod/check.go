package main

import "fmt"

type checkCmd struct {
	Config string `required:"" type:"path" help:"Configuration file (YAML)."`
}

// Run says every mistake of a configuration. It opens nothing that the configuration names: a node that is running on
// it, or an HSM that is away, makes no difference.
func (c *checkCmd) Run() error {
	cfg, err := LoadConfig(c.Config)
	if err != nil {
		return err
	}
	if cfg.Gossip.Listen != "" {
		if _, err := gossipNetworks(cfg.Gossip); err != nil {
			return err
		}
	}
	if _, err := rotationTargets(cfg.Rotation, nil); err != nil {
		return err
	}
	fmt.Printf("%s: the configuration of node %s is in order\n", c.Config, cfg.Node)
	return nil
}
