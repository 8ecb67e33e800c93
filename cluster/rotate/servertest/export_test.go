package servertest

// Dir is where a server keeps its data.
func (s *server) Dir() string { return s.process.dir }

// RedisTemplateDir is what servers of this test binary are copied from.
func RedisTemplateDir() string {
	t, err := redisTemplate()
	if err != nil {
		return err.Error()
	}
	return t.dir
}
