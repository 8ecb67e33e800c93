// Package demo holds no product code: it tests the demo's data source and training job without a cluster.
package demo

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const password = "kept-hidden, treasured"

// startSource runs the real data server and returns the URL of its data. The password goes in through a pipe.
func startSource(t *testing.T, python string) string {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	server := exec.Command(python, "dataserver.py", "--password-fd", "3")
	server.ExtraFiles = []*os.File{read}
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
	})
	read.Close()
	if _, err := write.WriteString(password); err != nil {
		t.Fatal(err)
	}
	write.Close()
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the data server did not say where it listens: %v", err)
	}
	return strings.TrimSpace(url)
}

func train(python, url, given string) (string, error) {
	var out bytes.Buffer
	job := exec.Command(python, "train.py", url)
	job.Env = append(os.Environ(), "DATA_PASSWORD="+given)
	job.Stdout, job.Stderr = &out, &out
	err := job.Run()
	return out.String(), err
}

func TestTraining(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed: the demo's training job is not tested")
	}
	url := startSource(t, python)

	first, err := train(python, url, password)
	if err != nil {
		t.Fatalf("training with the password: %v\n%s", err, first)
	}
	if !strings.Contains(first, "fetched 150 rows of 3 classes") || !strings.Contains(first, "\nmodel ") {
		t.Errorf("output does not tell data and model:\n%s", first)
	}
	if again, err := train(python, url, password); err != nil || again != first {
		t.Errorf("a second run differs (%v):\n%s\n%s", err, first, again)
	}
	for name, given := range map[string]string{"wrong": password + "x", "empty": ""} {
		out, err := train(python, url, given)
		if err == nil {
			t.Errorf("%s password trained:\n%s", name, out)
		}
		if strings.Contains(out, password) {
			t.Errorf("%s password: the output shows a password:\n%s", name, out)
		}
	}
	if strings.Contains(first, password) {
		t.Errorf("the output shows the password:\n%s", first)
	}
}
