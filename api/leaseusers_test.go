package api_test

import (
	"context"
	"net"
	"net/url"

	"github.com/jackc/pgx/v5"

	"github.com/hizo/hizo/cluster/rotate/target"
)

type pgUsers struct{}

func (pgUsers) Check(map[string]string) error { return nil }
func (pgUsers) exec(ctx context.Context, u target.User, sql ...string) error {
	at := url.URL{Scheme: "postgres", User: url.UserPassword(string(u.Admin["username"].Reveal()), string(u.Admin["password"].Reveal())),
		Host: net.JoinHostPort(u.Config["host"], u.Config["port"]), Path: "/postgres", RawQuery: "sslmode=require"}
	c, err := pgx.Connect(ctx, at.String())
	if err != nil {
		return &target.Error{Kind: "postgresql", Stage: "x", Message: "no connection"}
	}
	defer c.Close(ctx)
	for _, s := range sql {
		if _, err := c.Exec(ctx, s); err != nil {
			return &target.Error{Kind: "postgresql", Stage: "x", Message: "refused"}
		}
	}
	return nil
}
func (p pgUsers) Create(ctx context.Context, u target.User) error {
	return p.exec(ctx, u, `CREATE ROLE "`+u.Name+`" LOGIN PASSWORD '`+string(u.Password.Reveal())+`'`)
}
func (p pgUsers) Renew(ctx context.Context, u target.User) error { return p.exec(ctx, u, `SELECT 1`) }
func (p pgUsers) Drop(ctx context.Context, u target.User) error {
	return p.exec(ctx, u, `DROP ROLE IF EXISTS "`+u.Name+`"`)
}
