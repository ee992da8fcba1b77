package supervisor

import (
	"errors"
	"io/fs"
	"os"

	"labctl/nodes"
)

// flannelDir is the directory under a node's /run that agents write to.
const flannelDir = "flannel"

// view is what processes in an endpoint see of the file system: its devices in
// /sys, a /run of its own, and in a node's /run/flannel what its agent writes.
// It is made when it is first needed; nil when this machine does not allow it.
func (s *Supervisor) view(e *endpoint) *nodes.View {
	dirs := map[string]string{}
	// Only nodes have such a directory.
	if _, err := os.Stat(s.dir.Node(e.name)); err == nil {
		dirs[flannelDir] = s.dir.Node(e.name)
	} else if !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("view", "err", err)
	}
	v, err := e.ns.View(dirs)
	if err != nil {
		s.log.Warn("files of the endpoint's own", "err", err)
	}
	return v
}
