package cluster

import "crypto/rand"

// TokenWithOtherSecret is a join token for the same members with a secret that the cluster does not know.
func TokenWithOtherSecret(text string) (string, error) {
	t, err := parseJoinToken(text)
	if err != nil {
		return "", err
	}
	rand.Read(t.secret[:])
	return t.text(), nil
}
