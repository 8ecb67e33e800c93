package main

import (
	"os"
	"strings"
)

// credentialsVariable names the directory in which a service manager shows secret files to this process alone:
// systemd.exec(5), "Credentials".
const credentialsVariable = "CREDENTIALS_DIRECTORY"

// credential resolves $CREDENTIALS_DIRECTORY/NAME. The directory is another one for the service and for a command that
// runs beside it, so configurations can't name it. Other variables are none of ours.
func credential(path *string) {
	if name, ok := strings.CutPrefix(*path, "$"+credentialsVariable+"/"); ok {
		if dir := os.Getenv(credentialsVariable); dir != "" {
			*path = dir + "/" + name
		}
	}
}
