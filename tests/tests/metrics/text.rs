//! Prometheus' text format, read strictly: whatever is not exactly as the format says is a failure.

use std::collections::{BTreeMap, BTreeSet};

/// A family as it was served.
#[derive(Debug, Default)]
pub struct Served {
    pub kind: String,
    pub help: String,
    /// Names of labels, `le` left out.
    pub labels: BTreeSet<String>,
}

/// Everything that was served.
#[derive(Debug, Default)]
pub struct Metrics {
    pub families: BTreeMap<String, Served>,
    /// By name and labels, as written: `name{a="b"}`.
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    /// The value of exactly this series.
    pub fn value(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples))
    }

    /// The sum over all series of a name whose labels hold `part`.
    pub fn sum(&self, name: &str, part: &str) -> f64 {
        let of_name = |series: &str| series.split('{').next() == Some(name) && series.contains(part);
        self.samples.iter().filter(|(series, _)| of_name(series)).map(|(_, value)| value).sum()
    }
}

pub fn parse(text: &str) -> Metrics {
    assert!(text.ends_with('\n'), "the last line ends");
    let mut metrics = Metrics::default();
    let mut current: Option<String> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
            check_name(name, ":");
            assert!(!help.is_empty() && help.ends_with('.'), "{line}");
            let family = Served { help: help.to_owned(), ..Served::default() };
            assert!(metrics.families.insert(name.to_owned(), family).is_none(), "{name} comes twice");
            current = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("no type: {line}"));
            assert_eq!(Some(name), current.as_deref(), "a type follows its help");
            assert!(["gauge", "counter", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            metrics.families.get_mut(name).expect("known").kind = kind.to_owned();
        } else {
            assert!(!line.starts_with('#') && !line.is_empty(), "{line:?}");
            let family = current.clone().unwrap_or_else(|| panic!("a sample of no family: {line}"));
            sample(&mut metrics, &family, line);
        }
    }
    metrics.families.keys().for_each(|name| check_histogram(&metrics, name));
    metrics
}

fn check_name(name: &str, also: &str) {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || also.contains(c);
    assert!(!name.is_empty() && name.chars().all(fits) && !name.starts_with(|c: char| c.is_ascii_digit()), "{name:?}");
}

fn sample(metrics: &mut Metrics, family: &str, line: &str) {
    let (name, labels, value) = match line.split_once('{') {
        Some((name, rest)) => {
            let (labels, rest) = read_labels(rest);
            (name, labels, rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}")))
        }
        None => {
            let (name, value) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            (name, Vec::new(), value)
        }
    };
    check_name(name, ":");
    let served = metrics.families.get_mut(family).expect("known");
    let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{name} stands under {family}"));
    match served.kind.as_str() {
        "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
        _ => assert_eq!(suffix, "", "{line}"),
    }
    let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
    assert!(served.kind == "gauge" || (value.is_finite() && value >= 0.0), "{line}");
    let names: BTreeSet<String> = labels.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names.len(), labels.len(), "a label twice: {line}");
    assert_eq!(names.contains("le"), suffix == "_bucket", "{line}");
    served.labels.extend(names.into_iter().filter(|name| name != "le"));
    let series = line.rsplit_once(' ').expect("a value").0;
    assert!(metrics.samples.insert(series.to_owned(), value).is_none(), "{series} comes twice");
}

/// What stands before the closing brace, and the rest.
fn read_labels(text: &str) -> (Vec<(String, String)>, &str) {
    let (mut labels, mut rest) = (Vec::new(), text);
    loop {
        let (name, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{text}"));
        check_name(name, "");
        let mut value = String::new();
        let mut escaped = false;
        let end = after.char_indices().find_map(|(at, c)| {
            match (escaped, c) {
                (false, '"') => return Some(at),
                (false, '\\') => escaped = true,
                (true, 'n') => {
                    value.push('\n');
                    escaped = false;
                }
                (true, '\\' | '"') => {
                    value.push(c);
                    escaped = false;
                }
                (true, other) => panic!("\\{other} in {text}"),
                (false, c) => value.push(c),
            }
            None
        });
        rest = &after[end.unwrap_or_else(|| panic!("{text}")) + 1..];
        labels.push((name.to_owned(), value));
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None => return (labels, rest.strip_prefix('}').unwrap_or_else(|| panic!("{text}"))),
        }
    }
}

/// Buckets rise to the count.
fn check_histogram(metrics: &Metrics, name: &str) {
    if metrics.families[name].kind != "histogram" {
        return;
    }
    let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (sample, value) in &metrics.samples {
        let Some(labels) = sample.strip_prefix(&format!("{name}_bucket{{")) else { continue };
        let (labels, _) = read_labels(labels);
        let bound = labels.iter().find(|(name, _)| name == "le").expect("a bound").1.parse().expect("a number");
        let others: Vec<String> =
            labels.iter().filter(|(name, _)| name != "le").map(|(name, value)| format!("{name}={value:?}")).collect();
        series.entry(others.join(",")).or_default().push((bound, *value));
    }
    assert!(!series.is_empty(), "{name} has no buckets");
    for (labels, mut buckets) in series {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name} {labels}: {buckets:?}");
        let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let last = buckets.last().expect("a bucket");
        assert_eq!(*last, (f64::INFINITY, metrics.value(&format!("{name}_count{braced}"))));
        metrics.value(&format!("{name}_sum{braced}"));
    }
}

#[test]
fn what_is_not_the_format_is_refused() {
    for wrong in [
        "a 1\n",
        "# HELP a b.\n# TYPE a gauge\na 1",
        "# HELP a b.\n# TYPE a gauge\nb 1\n",
        "# HELP a b.\n# TYPE a gauge\na 1\na 2\n",
        "# HELP a b.\n# TYPE a gauge\na{b=\"c} 1\n",
        "# HELP a b.\n# TYPE a gauge\na x\n",
        "# HELP a b.\n# TYPE a counter\na 1\n",
        "# HELP a b.\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
    ] {
        assert!(std::panic::catch_unwind(|| parse(wrong)).is_err(), "{wrong}");
    }
    let right = "# HELP a b.\n# TYPE a gauge\na{b=\"c\\\"\\n\"} NaN\n";
    assert!(parse(right).value("a{b=\"c\\\"\\n\"}").is_nan());
}
