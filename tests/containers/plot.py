"""Memory over time as a picture: a line for every life of a process."""

WIDTH, HEIGHT, LEFT, BELOW, ABOVE = 900, 380, 60, 40, 30
COLOURS = {"lead": "#b5403a", "server": "#2b6cb0", "worker": "#9a9a9a"}


def lines(samples):
    """SVG of {(name, id): [(seconds, bytes)]}."""
    seconds_max = max((sample[0] for life in samples.values() for sample in life), default=1.0)
    bytes_max = 1.2 * max((sample[1] for life in samples.values() for sample in life), default=1.0)

    def place(seconds, size):
        across = LEFT + (WIDTH - LEFT - 10) * seconds / seconds_max
        up = HEIGHT - BELOW - (HEIGHT - BELOW - ABOVE) * size / bytes_max
        return f"{across:.1f},{up:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for step in range(5):
        size, seconds = bytes_max * step / 4, seconds_max * step / 4
        across, up = place(seconds, size).split(",")
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{up}" y2="{up}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{up}" text-anchor="end">{size / 1e6:.0f} MB</text>')
        parts.append(f'<text x="{across}" y="{HEIGHT - BELOW + 20}" text-anchor="middle">{seconds / 60:.0f} min</text>')
    for (name, _), life in sorted(samples.items(), key=lambda entry: "worker" not in entry[0][0]):
        points = " ".join(place(*sample) for sample in life)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[kind(name)]}" stroke-width="1.5"/>')
    for number, (what, colour) in enumerate(COLOURS.items()):
        parts.append(f'<text x="{LEFT + 10 + 80 * number}" y="18" fill="{colour}">{what}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def kind(name):
    return next(kind for kind in COLOURS if kind in name)
