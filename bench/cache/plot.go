package main

import (
	"fmt"
	"strconv"
	"strings"
)

// limit is a column of samples and the most that it may be.
type limit struct {
	name   string
	column int
	most   float64
}

// plot draws columns of samples, each as a part of its limit, as SVG.
func plot(rows [][]string, list []limit) []byte {
	const width, height, left, top = 720, 260, 50, 20
	rows = rows[1:]
	number := func(s string) float64 {
		v, _ := strconv.ParseFloat(s, 64) // written by this program
		return v
	}
	end := 1.0
	if len(rows) > 0 {
		end = number(rows[len(rows)-1][0])
	}
	y := func(part float64) float64 { return top + (1-part/1.1)*height }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", width+left+20, height+top+60)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	for _, part := range []float64{0, .25, .5, .75, 1} {
		style := `stroke="#ddd"`
		if part == 1 {
			style = `stroke="#c00" stroke-dasharray="6 3"`
		}
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" %s/><text x="%d" y="%.1f" text-anchor="end">%.0f %%</text>`+"\n", left, left+width, y(part), y(part), style, left-6, y(part)+4, 100*part)
	}
	for i, l := range list {
		colour := []string{"#06c", "#083", "#a50"}[i%3]
		var points []string
		for _, r := range rows {
			points = append(points, fmt.Sprintf("%.1f,%.1f", left+width*number(r[0])/end, y(number(r[l.column])/l.most)))
		}
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="1.5" points="%s"/>`+"\n", colour, strings.Join(points, " "))
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", left+10+i*220, height+top+45, colour, l.name)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%.0f s</text>`+"\n</svg>\n", left+width, height+top+20, end)
	return []byte(b.String())
}
