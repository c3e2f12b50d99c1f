//! A report as a table for people.

use std::fmt;

use super::{
    Report,
    words::{Section, grouped, grouped_f, mib, percent, points, time, write_table},
};
use crate::scenario::Load;

impl Report {
    fn sections(&self) -> Vec<Section> {
        let Self { setting, connecting, publications, deliveries, latency, generator, .. } = self;
        let load = match setting.load {
            Load::Rate(rate) => format!("{rate}/s for {} s", setting.duration_seconds),
            Load::Window(window) if setting.burst => format!("{window} at once for {} s", setting.duration_seconds),
            Load::Window(window) => format!("{window} in flight for {} s", setting.duration_seconds),
        };
        let mut sections = vec![
            (
                "load",
                vec![
                    ("nodes", setting.urls.join(" ")),
                    ("channel", setting.channel.clone()),
                    (
                        "clients",
                        format!(
                            "{} and {} publishing, on {} channels",
                            grouped(setting.clients as u64),
                            grouped(setting.publishers as u64),
                            grouped(setting.channels as u64),
                        ),
                    ),
                    ("publications", format!("{load}, {} B", grouped(setting.size as u64))),
                ],
            ),
            (
                "connecting",
                vec![
                    ("connect", points(&connecting.connect)),
                    ("subscribe", points(&connecting.subscribe)),
                    ("refused for now", grouped(connecting.retries)),
                ],
            ),
            (
                "publications",
                vec![
                    ("due / sent", format!("{} / {}", grouped(publications.due), grouped(publications.sent))),
                    ("refused", grouped(publications.refused)),
                    ("unanswered", grouped(publications.unanswered)),
                ],
            ),
            (
                "deliveries",
                vec![
                    ("expected", grouped(self.deliveries_expected)),
                    ("received", grouped(deliveries.received)),
                    ("lost", grouped(deliveries.lost)),
                    ("doubled", grouped(deliveries.doubled)),
                    ("reordered", grouped(deliveries.reordered)),
                    ("offset holes", grouped(deliveries.offset_holes)),
                    ("per second", grouped_f(self.deliveries_per_second)),
                ],
            ),
            (
                "latency",
                vec![
                    ("from schedule", points(&latency.from_schedule)),
                    ("from send", points(&latency.from_send)),
                    ("last of all", points(&latency.last_of_all)),
                    ("publish to reply", points(&latency.publish_to_reply)),
                    ("sent late by", points(&latency.send_lateness)),
                ],
            ),
            (
                "generator",
                vec![
                    ("CPU", format!("{:.2} s in {:.2} s", generator.cpu_seconds, generator.wall_seconds)),
                    ("per delivery", format!("{:.2} µs", generator.cpu_us_per_delivery)),
                    ("read", format!("{} in {} reads", mib(generator.received_bytes), grouped(generator.reads))),
                    (
                        "busiest thread",
                        format!(
                            "{} of a core, most hindered waited {}",
                            percent(generator.busiest),
                            percent(generator.starved)
                        ),
                    ),
                    ("own share", format!("{} to read one publication on all clients", time(generator.own_burst_us))),
                ],
            ),
        ];
        if let Some(server) = &self.server {
            let per_client = server.resident_bytes_connected.saturating_sub(server.resident_bytes_before) as f64
                / (setting.clients + setting.publishers) as f64;
            let pids: Vec<String> = server.pids.iter().map(ToString::to_string).collect();
            sections.push((
                "server",
                vec![
                    ("processes", pids.join(" ")),
                    ("CPU", format!("{:.2} s", server.cpu_seconds)),
                    ("per delivery", format!("{:.3} µs", server.cpu_us_per_delivery)),
                    ("per publication", format!("{:.1} µs", server.cpu_us_per_publication)),
                    (
                        "memory",
                        format!(
                            "{} before, {} connected, {} after; {:.1} KiB more per client",
                            mib(server.resident_bytes_before),
                            mib(server.resident_bytes_connected),
                            mib(server.resident_bytes_after),
                            per_client / 1024.0
                        ),
                    ),
                ],
            ));
        }
        if let Some(stalled) = &self.stalled {
            let mut rows = vec![
                ("clients", grouped(stalled.clients)),
                (
                    "memory of each",
                    format!(
                        "{:.1} KiB, at most {:.1} KiB",
                        stalled.resident_bytes_each / 1024.0,
                        stalled.resident_bytes_each_at_most / 1024.0
                    ),
                ),
            ];
            let ends = stalled.outcomes.iter().map(|(outcome, times)| ("", format!("{} × {outcome}", grouped(*times))));
            rows.extend(ends);
            sections.push(("stalled", rows));
        }
        sections
    }
}

/// The table, and the verdict as its last line.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_table(f, &self.sections(), &self.verdict)
    }
}
