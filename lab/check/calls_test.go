package check

import "testing"

func TestBurstsFromTUN(t *testing.T) {
	t.Parallel()
	for release, want := range map[string]bool{
		"5.15.0-91-generic": false, "6.1.192-labctl": false, "6.2.0": true, "6.18.44": true, "7.0": true, "of somebody's own": true,
	} {
		if got := burstsFromTUN(release); got != want {
			t.Errorf("burstsFromTUN(%q) = %v, want %v", release, got, want)
		}
	}
}
