package rotate

// SetHook sets what is called between any two things that an attempt does.
func (e *Engine) SetHook(hook func(at string)) { e.hook = hook }
