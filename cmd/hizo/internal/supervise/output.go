package supervise

import (
	"io"
	"os"

	"github.com/hizo/hizo/cmd/hizo/internal/child"
)

// masked is an output that hides what the command's own would hide.
func masked(cmd child.Command, out *os.File) (io.Writer, func()) {
	if cmd.Masks == nil || out == nil {
		if out == nil {
			return io.Discard, func() {}
		}
		return out, func() {}
	}
	m := cmd.Masks.Masker(out)
	return m, func() { _ = m.Close() }
}
