//! What a run showed: a table for people, JSON for programs, and a page with a plot.

use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use plotters::prelude::*;
use serde_json::{Value, json};
use whimbrel_cluster::Member;

use super::ends::Ends;
use super::plan::{Class, Fault};
use super::recovery::{ClassFigures, Happened, Outside, Recovery, Slices, recoveries, windows};
use super::{ChaosArgs, Run};

/// Violations in the table; the others are in the JSON.
const TOLD_MAX: usize = 10;
/// Of the sends offered outside of fault windows this share is to be acknowledged in time.
const IN_TIME_TARGET: f64 = 0.999;
/// Of the plot, in the page's own units.
const SIZE: (u32, u32) = (1_200, 360);
/// Of axes and words: legible on light and dark.
const INK: RGBColor = RGBColor(128, 134, 144);
const ACKED: RGBColor = RGBColor(47, 129, 247);
const DELIVERED: RGBColor = RGBColor(46, 160, 103);
/// Of the windows, by class of fault.
const WINDOWS: [RGBColor; 6] = [
    RGBColor(232, 112, 32),
    RGBColor(214, 63, 84),
    RGBColor(176, 108, 220),
    RGBColor(120, 160, 40),
    RGBColor(200, 30, 30),
    RGBColor(20, 160, 170),
];

/// What the page looks like.
const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1240px;margin:2em auto;padding:0 1em;color-scheme:light dark}\
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #8884}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.good{color:#2a9d57}.bad{color:#d63f54}.quiet{opacity:.7}\
svg{width:100%;height:auto}";

/// How a load ended.
#[derive(Debug)]
struct LoadEnd {
    name: &'static str,
    runs: u32,
    failures: Vec<String>,
    /// Of its last run.
    figures: Value,
}

/// How it all ended.
#[derive(Debug)]
pub(super) struct Outcome {
    seed: u64,
    minutes: u64,
    /// How many faults were to happen.
    planned: usize,
    began_ms: u64,
    happened: Vec<Happened>,
    recoveries: Vec<Recovery>,
    windows: Vec<(u64, u64)>,
    classes: Vec<ClassFigures>,
    outside: Outside,
    /// From when to when the run itself stood still.
    stalls: Vec<(u64, u64)>,
    loads: Vec<LoadEnd>,
    ends: Ends,
}

impl Outcome {
    pub(super) fn new(args: &ChaosArgs, planned: &[Fault], began_ms: u64, run: &Run<'_>, ends: Ends) -> Self {
        let end = |load: &super::Load| LoadEnd {
            name: load.job.name,
            runs: load.runs,
            failures: load.failures.clone(),
            figures: load.figures().unwrap_or_default(),
        };
        let loads: Vec<_> = run.loads.iter().map(end).collect();
        let slices: Vec<_> = loads
            .iter()
            .filter_map(|load| Slices::of(&load.figures))
            .collect();
        let happened = run.happened.clone();
        let recoveries = recoveries(&happened, &slices);
        let windows = windows(&happened, &recoveries);
        // What is on its way while all stands still is late for no fault of the cluster's, and so is what comes right behind.
        let stalls = run.stalls.iter();
        let stalls = stalls.map(|(from, to)| (from.saturating_sub(1_000), to + 5_000));
        let excused: Vec<_> = windows.iter().copied().chain(stalls).collect();
        Self {
            seed: args.seed,
            minutes: args.minutes,
            planned: planned.len(),
            began_ms,
            classes: ClassFigures::of(&happened, &recoveries),
            outside: Outside::count(began_ms, &excused, &slices),
            stalls: run.stalls.clone(),
            happened,
            recoveries,
            windows,
            loads,
            ends,
        }
    }

    /// What was not as it is to be, a line each. Figures that miss their targets are not among it.
    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for load in &self.loads {
            let name = load.name;
            wrong.extend(load.failures.iter().map(|failure| format!("{name}: {failure}")));
            if load.figures.is_null() {
                wrong.push(format!("{name}: it left no figures"));
            }
            for count in [
                "violations",
                "unresolved",
                "refused_wrongly",
                "undelivered",
                "failed",
                "lost",
                "unread",
            ] {
                // What a room drops it may drop.
                let may = name == "room" && count == "undelivered";
                if let Some(number @ 1..) = load.figures[count].as_u64()
                    && !may
                {
                    wrong.push(format!("{name}: {number} {count}"));
                }
            }
        }
        let ill = self.happened.iter().filter(|one| !one.well);
        wrong.extend(ill.map(|one| format!("not well again in time: {}", one.fault)));
        if self.happened.len() < self.planned {
            let (had, planned) = (self.happened.len(), self.planned);
            wrong.push(format!("only {had} of {planned} faults happened"));
        }
        wrong.extend(self.ends.wrong());
        wrong
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        if self.wrong().is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    pub(super) fn write(&self, out: &Path) -> anyhow::Result<()> {
        let write = |name: &str, text: String| {
            let path = out.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write("chaos.json", format!("{:#}\n", self.json()))?;
        write("chaos.html", self.page()?)
    }

    /// Seconds since the load began.
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds of a run are far below 2^53"
    )]
    fn at_s(&self, ms: u64) -> f64 {
        (ms as f64 - self.began_ms as f64) / 1_000.0
    }

    fn json(&self) -> Value {
        let happened = self.happened.iter().zip(&self.recoveries).zip(&self.windows);
        let faults = happened.map(|((one, recovery), (from, to))| {
            let members = one.fault.members.iter().map(Member::to_string);
            json!({
                "at_s": self.at_s(one.hit_ms),
                "what": one.fault.to_string(),
                "kind": one.fault.kind.name(),
                "class": one.fault.class().name(),
                "members": members.collect::<Vec<_>>(),
                "lasting_s": one.fault.lasting.as_secs_f64(),
                "returned_at_s": self.at_s(one.returned_ms),
                "recovered_s_after_hit": recovery.from_hit.as_secs_f64(),
                "recovered_s_after_return": recovery.from_return.as_secs_f64(),
                "window_s": [self.at_s(*from), self.at_s(*to)],
                "well": one.well,
                "disturbed": one.disturbed,
            })
        });
        let loads = self.loads.iter().map(|load| {
            let mut figures = load.figures.clone();
            if let Some(figures) = figures.as_object_mut() {
                // They are in the load's own file.
                figures.remove("slices");
                figures.remove("seconds");
            }
            json!({ "name": load.name, "runs": load.runs, "failures": load.failures, "figures": figures })
        });
        json!({
            "passed": self.wrong().is_empty(),
            "wrong": self.wrong(),
            "seed": self.seed,
            "minutes": self.minutes,
            "faults_planned": self.planned,
            "faults": faults.collect::<Vec<_>>(),
            "stood_still_s": self.stalls.iter().map(|(from, to)| [self.at_s(*from), self.at_s(*to)]).collect::<Vec<_>>(),
            "drains": self.ends.drains_json(),
            "recovery": self.classes.iter().map(ClassFigures::json).collect::<Vec<_>>(),
            "outside_windows": {
                "offered": self.outside.offered,
                "acknowledged_in_5_s": self.outside.in_time,
                "share": self.outside.share(),
                "target": IN_TIME_TARGET,
                "within": self.outside.share() >= IN_TIME_TARGET,
            },
            "loads": loads.collect::<Vec<_>>(),
        })
    }

    fn page(&self) -> anyhow::Result<String> {
        let mut out = String::new();
        let wrong = self.wrong();
        let seed = self.seed;
        write!(
            out,
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Whimbrel chaos: seed {seed}</title>\
             <style>{STYLE}</style></head><body><h1>Whimbrel chaos: seed {seed}</h1>"
        )?;
        if wrong.is_empty() {
            out.push_str("<p class=\"good\">no promise was broken, everything recovered</p>");
        }
        for line in &wrong {
            write!(out, "<p class=\"bad\">{}</p>", escape(line))?;
        }
        write!(
            out,
            "<p>{} of {} sends offered outside fault windows were acknowledged within 5 s: {:.4} % (target {:.1} %)</p>",
            self.outside.in_time,
            self.outside.offered,
            100.0 * self.outside.share(),
            100.0 * IN_TIME_TARGET
        )?;
        write!(out, "<h2>Messages a second, and faults</h2>{}", self.plot()?)?;
        out.push_str("<p class=\"quiet\">");
        for (class, colour) in Class::ALL.iter().zip(WINDOWS) {
            let RGBColor(red, green, blue) = colour;
            write!(
                out,
                "<span style=\"color:rgb({red},{green},{blue})\">\u{25a0}</span> {} &nbsp; ",
                escape(class.name())
            )?;
        }
        out.push_str("acknowledged (blue) and delivered (green)</p>");
        self.tables(&mut out)?;
        out.push_str("</body></html>\n");
        Ok(out)
    }

    fn tables(&self, out: &mut String) -> anyhow::Result<()> {
        out.push_str(
            "<h2>Recovery by class, from the return on</h2><table><tr><th>class</th><th class=\"n\">faults</th><th class=\"n\">p50 s</th>\
             <th class=\"n\">p95 s</th><th class=\"n\">most s</th><th class=\"n\">target p95 s</th></tr>",
        );
        for figures in &self.classes {
            write!(
                out,
                "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{:.1}</td><td class=\"n {}\">{:.1}</td><td class=\"n\">{:.1}</td><td class=\"n\">{}</td></tr>",
                escape(figures.class.name()),
                figures.count,
                figures.p50_s,
                if figures.is_within() { "good" } else { "bad" },
                figures.p95_s,
                figures.max_s,
                figures.class.target().as_secs()
            )?;
        }
        out.push_str(
            "</table><h2>Faults</h2><table><tr><th class=\"n\">at s</th><th>what</th><th class=\"n\">recovered, s after the hit</th>\
             <th class=\"n\">s after the return</th></tr>",
        );
        for (one, recovery) in self.happened.iter().zip(&self.recoveries) {
            write!(
                out,
                "<tr><td class=\"n\">{:.1}</td><td>{}</td><td class=\"n\">{:.1}</td><td class=\"n\">{:.1}</td></tr>",
                self.at_s(one.hit_ms),
                escape(&one.fault.to_string()),
                recovery.from_hit.as_secs_f64(),
                recovery.from_return.as_secs_f64()
            )?;
        }
        out.push_str("</table><h2>Loads</h2><table><tr><th>load</th><th class=\"n\">runs</th>");
        for (_, name) in LOAD_COLUMNS {
            write!(out, "<th class=\"n\">{name}</th>")?;
        }
        out.push_str("</tr>");
        for load in &self.loads {
            write!(
                out,
                "<tr><td>{}</td><td class=\"n\">{}</td>",
                load.name, load.runs
            )?;
            for (key, _) in LOAD_COLUMNS {
                write!(out, "<td class=\"n\">{}</td>", load.figures[key])?;
            }
            out.push_str("</tr>");
        }
        out.push_str("</table>");
        Ok(())
    }

    /// Acknowledgements and deliveries of all loads each second, over the windows of the faults.
    fn plot(&self) -> anyhow::Result<String> {
        let per_second = |name: &str| {
            let mut sums = std::collections::BTreeMap::<i64, f64>::new();
            for load in &self.loads {
                let started = load.figures["slices"]["from_ms"].as_u64();
                let Some(first) = started else { continue };
                let seconds = load.figures["seconds"].as_array();
                let sending = seconds
                    .into_iter()
                    .flatten()
                    .skip_while(|second| second["sends"].as_u64() == Some(0));
                for (nth, second) in (0_i64..).zip(sending) {
                    let at = self.at_s(first).round();
                    #[expect(clippy::cast_possible_truncation, reason = "seconds of a run")]
                    let at = at as i64 + nth;
                    *sums.entry(at).or_default() += second[name].as_f64().unwrap_or(0.0);
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "seconds of a run")]
            let points = sums.into_iter().map(|(at, sum)| (at as f64, sum));
            points.collect::<Vec<_>>()
        };
        let (acked, delivered) = (per_second("acked"), per_second("deliveries"));
        let most = acked
            .iter()
            .chain(&delivered)
            .map(|(_, y)| *y)
            .fold(1.0, f64::max)
            * 1.05;
        let last = acked.last().map_or(1.0, |(x, _)| x.max(1.0));
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            let words = ("sans-serif", 13).into_font().color(&INK);
            let mut chart = ChartBuilder::on(&area)
                .margin(10)
                .x_label_area_size(36)
                .y_label_area_size(56)
                .build_cartesian_2d(0.0..last, 0.0..most)
                .map_err(|error| anyhow!("a plot has no room: {error}"))?;
            chart
                .configure_mesh()
                .axis_style(INK)
                .bold_line_style(INK.mix(0.25))
                .light_line_style(INK.mix(0.0))
                .label_style(words)
                .x_desc("second of the load")
                .y_desc("messages a second")
                .draw()
                .map_err(|error| anyhow!("axes cannot be drawn: {error}"))?;
            let windows = self.happened.iter().zip(&self.windows);
            let windows = windows.map(|(one, (from, to))| {
                let nth = Class::ALL.iter().position(|class| *class == one.fault.class());
                let colour = WINDOWS[nth.unwrap_or(0)];
                Rectangle::new(
                    [(self.at_s(*from), 0.0), (self.at_s(*to), most)],
                    colour.mix(0.3).filled(),
                )
            });
            chart
                .draw_series(windows)
                .map_err(|error| anyhow!("windows cannot be drawn: {error}"))?;
            for (points, colour) in [(delivered, DELIVERED), (acked, ACKED)] {
                chart
                    .draw_series(LineSeries::new(points, colour.stroke_width(2)))
                    .map_err(|error| anyhow!("a line cannot be drawn: {error}"))?;
            }
            area.present()
                .map_err(|error| anyhow!("a plot cannot be finished: {error}"))?;
        }
        Ok(svg)
    }
}

/// What of a load's figures is in the table, and what it is called there.
const LOAD_COLUMNS: [(&str, &str); 9] = [
    ("sends", "sends"),
    ("sends_acked", "acknowledged"),
    ("deliveries", "delivered"),
    ("refused", "refused"),
    ("unresolved", "unresolved"),
    ("disconnects", "disconnects"),
    ("retries", "retries"),
    ("membership_changes", "changes of members"),
    ("violations", "violations"),
];

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for (one, recovery) in self.happened.iter().zip(&self.recoveries) {
            writeln!(
                f,
                "{:8.1} s  {:<44} recovered {:5.1} s after the hit, {:5.1} s after the return{}",
                self.at_s(one.hit_ms),
                one.fault.to_string(),
                recovery.from_hit.as_secs_f64(),
                recovery.from_return.as_secs_f64(),
                if one.disturbed {
                    "; the run itself stood still meanwhile: not counted"
                } else {
                    ""
                }
            )?;
        }
        writeln!(f)?;
        for figures in &self.classes {
            writeln!(
                f,
                "{:<18} {:3} faults, p50 {:5.1} s, p95 {:5.1} s, most {:5.1} s; target {} s{}",
                figures.class.name(),
                figures.count,
                figures.p50_s,
                figures.p95_s,
                figures.max_s,
                figures.class.target().as_secs(),
                if figures.is_within() { "" } else { ": MISSED" }
            )?;
        }
        writeln!(f)?;
        for load in &self.loads {
            write!(f, "{:<10}", load.name)?;
            for (key, name) in LOAD_COLUMNS {
                if let Some(number @ 1..) = load.figures[key].as_u64() {
                    write!(f, " {number} {name},")?;
                }
            }
            writeln!(f, " in {} runs", load.runs)?;
            let told = load.figures["violations_told"].as_array();
            for violation in told.into_iter().flatten().take(TOLD_MAX) {
                writeln!(f, "  ({}) {}", violation["invariant"], violation["what"])?;
            }
        }
        let share = 100.0 * self.outside.share();
        let (in_time, offered) = (self.outside.in_time, self.outside.offered);
        writeln!(
            f,
            "outside fault windows {in_time} of {offered} sends were acknowledged within 5 s: {share:.4} %"
        )?;
        for line in self.wrong() {
            writeln!(f, "WRONG: {line}")?;
        }
        let end = if self.wrong().is_empty() {
            "no promise was broken, everything recovered"
        } else {
            "FAILED"
        };
        writeln!(f, "{end}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(figures: Value) -> Outcome {
        Outcome {
            seed: 1,
            minutes: 1,
            planned: 0,
            began_ms: 1_000,
            happened: Vec::new(),
            recoveries: Vec::new(),
            windows: Vec::new(),
            classes: Vec::new(),
            outside: Outside::default(),
            stalls: Vec::new(),
            loads: vec![LoadEnd {
                name: "direct",
                runs: 1,
                failures: Vec::new(),
                figures,
            }],
            ends: Ends::default(),
        }
    }

    #[test]
    fn a_run_passes_when_nothing_is_wrong_and_says_what_is() {
        let good = json!({ "violations": 0, "unresolved": 0, "sends": 5 });
        assert!(outcome(good.clone()).wrong().is_empty());
        for (wrong, expected) in [
            (json!({ "violations": 2 }), "2 violations"),
            (json!({ "unresolved": 1 }), "1 unresolved"),
            (Value::Null, "no figures"),
        ] {
            let said = outcome(wrong).wrong().join("; ");
            assert!(said.contains(expected), "{said}");
        }
        let mut with_a_panic = outcome(good.clone());
        with_a_panic.ends.panics.push("lbs-1: it".to_owned());
        assert_eq!(with_a_panic.wrong(), ["panicked: lbs-1: it"]);
        let without_its_faults = Outcome {
            planned: 3,
            ..outcome(good)
        };
        assert!(without_its_faults.wrong()[0].contains("0 of 3"));
    }

    #[test]
    fn the_page_has_a_plot_and_the_json_what_happened() {
        let figures = json!({
            "slices": { "from_ms": 1_000 },
            "seconds": [{ "sends": 0, "acked": 0, "deliveries": 0 }, { "sends": 9, "acked": 9, "deliveries": 9 },
                { "sends": 9, "acked": 3, "deliveries": 2 }],
        });
        let page = outcome(figures.clone()).page();
        assert!(page.is_ok_and(|page| page.contains("<svg") && page.contains("polyline")));
        let json = outcome(figures).json();
        assert_eq!(json["passed"], true);
        assert!(json["loads"][0]["figures"]["seconds"].is_null());
    }
}
