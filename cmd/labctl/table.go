package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"
	"go.yaml.in/yaml/v4"
)

// table prints rows the way kubectl does: no borders, upper-case headers.
func table(w io.Writer, header []string, rows [][]string) error {
	var b bytes.Buffer
	t := tablewriter.NewTable(&b,
		tablewriter.WithRenderer(renderer.NewBlueprint(tw.Rendition{
			Borders:  tw.BorderNone,
			Settings: tw.Settings{Separators: tw.SeparatorsNone, Lines: tw.LinesNone},
		})),
		tablewriter.WithHeaderAutoFormat(tw.Off),
		tablewriter.WithHeaderAlignment(tw.AlignLeft),
		tablewriter.WithRowAlignment(tw.AlignLeft),
		tablewriter.WithRowAutoWrap(tw.WrapNone),
		tablewriter.WithHeaderAutoWrap(tw.WrapNone),
		tablewriter.WithPadding(tw.Padding{Right: "  ", Overwrite: true}),
		tablewriter.WithTrimSpace(tw.Off),
	)
	cells := make([]any, len(header))
	for i, h := range header {
		cells[i] = h
	}
	t.Header(cells...)
	if err := t.Bulk(rows); err != nil {
		return err
	}
	if err := t.Render(); err != nil {
		return err
	}
	// The renderer pads the last column too.
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// machineReadable prints v when -o asks for it.
func (a *app) machineReadable(v any) (bool, error) {
	switch a.output {
	case "json":
		e := json.NewEncoder(a.stdout)
		e.SetIndent("", "  ")
		return true, e.Encode(v)
	case "yaml":
		// By way of JSON, so that the names are the same.
		b, err := json.Marshal(v)
		if err != nil {
			return true, err
		}
		var n yaml.Node
		if err := yaml.Unmarshal(b, &n); err != nil {
			return true, err
		}
		plainStyle(&n)
		b, err = yaml.Marshal(&n)
		if err != nil {
			return true, err
		}
		_, err = a.stdout.Write(b)
		return true, err
	}
	return false, nil
}

// plainStyle turns JSON's flow style into YAML's block style.
func plainStyle(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		plainStyle(c)
	}
}

// dash stands for nothing in a table.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
