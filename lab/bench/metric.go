package bench

// Metric is one figure that trials give.
type Metric struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	Unit  string `json:"unit"`
	// Of is the measurement whose trials give it.
	Of string `json:"of"`
	// Less is true where less is better.
	Less bool `json:"less,omitempty"`
	// Better and Worse are what a pair's verdict is called.
	Better string `json:"better"`
	Worse  string `json:"worse"`
	// Plain figures are told but not compared: those that are the same whenever
	// they are measured, and parts of others.
	Plain bool `json:"plain,omitempty"`
	// Step is the smallest step of values that may be 0, which have no ratio: it
	// is added to both.
	Step float64 `json:"step,omitempty"`
}

// faster is a metric of speed, more of which is better.
func faster(name, title, unit, of string) Metric {
	return Metric{Name: name, Title: title, Unit: unit, Of: of, Better: "faster", Worse: "slower"}
}

// quicker is a metric of time.
func quicker(name, title, unit, of string) Metric {
	m := faster(name, title, unit, of)
	m.Less = true
	return m
}

// part is a metric that is not compared.
func part(name, title, unit, of string) Metric {
	m := quicker(name, title, unit, of)
	m.Plain = true
	return m
}

// verdict is a's against b's by the ratio a/b.
func (m Metric) verdict(ratio float64) string {
	if (ratio > 1) != m.Less {
		return m.Better
	}
	return m.Worse
}
