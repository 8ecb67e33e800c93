package values

import (
	"context"
	"time"

	"github.com/hizo/hizo/api/hizov1"
)

// leastPause is between two renewals of a token.
const leastPause = 10 * time.Second

// KeepToken renews the client's token for as long as the cluster lets it, each time when half of what was left is over.
// It returns when ctx ends, or when the token has reached its end.
func KeepToken(ctx context.Context, auth hizov1.AuthServiceClient, note func(format string, args ...any)) {
	var me *hizov1.WhoAmIResponse
	for pause := leastPause; ; pause = min(2*pause, retryMax) {
		var err error
		if me, err = auth.WhoAmI(ctx, &hizov1.WhoAmIRequest{}); err == nil {
			break
		}
		if !sleep(ctx, pause) { // whatever is wrong, the values' own calls say it
			return
		}
	}
	expires, end := time.Unix(me.GetExpiresUnix(), 0), time.Unix(me.GetMaxExpiresUnix(), 0)
	ttl := time.Until(expires)
	for expires.Before(end) {
		if !sleep(ctx, max(time.Until(expires)/2, leastPause)) {
			return
		}
		answer, err := auth.Renew(ctx, &hizov1.RenewRequest{TtlSeconds: int64(max(ttl, time.Minute) / time.Second)})
		switch {
		case err == nil:
			expires = time.Unix(answer.GetExpiresUnix(), 0)
		case time.Until(expires) <= 0:
			return
		}
	}
	if ctx.Err() == nil {
		note("hizo: the login ends at %s and can't be renewed: from then on values are not followed any more", end.UTC().Format(time.RFC3339))
	}
}
