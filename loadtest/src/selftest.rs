//! The generator against itself: does it notice what goes wrong, and how much can it take on this machine?
//!
//! A figure of a node is worth something only well below this ceiling.

use std::{fmt, io, panic::resume_unwind, thread, time::Duration};

use indicatif::ProgressBar;
use serde::Serialize;

use crate::{
    report::{
        Report,
        rolling::{Rolling, Thresholds},
    },
    scenario::{
        Access, Load, SPARE_FILES, ScenarioError, check_files,
        fanout::{self, Settings},
        roll,
    },
    standin::{Fault, Misstep, StandIn},
    tally::Outcome,
};

/// What was found out.
#[derive(Debug, Clone, Serialize)]
pub struct SelfTest {
    /// One for each fault.
    pub checks: Vec<Check>,
    /// One for each number of publications in flight.
    pub ceilings: Vec<Ceiling>,
}

/// Whether a fault is noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// In words.
    pub what: &'static str,
    /// Whether the counts were exactly these, or the run failed for this reason.
    pub noticed: bool,
}

/// What the generator can take.
#[derive(Debug, Clone, Serialize)]
pub struct Ceiling {
    /// Publications in flight.
    pub window: u32,
    /// Deliveries a second that were received, with the stand-in on the same machine.
    pub deliveries_per_second: f64,
    /// CPU of the receiving threads for each.
    pub cpu_us_per_delivery: f64,
    /// What one receiving thread could take if it had a core of its own and nothing to wait for.
    pub ceiling_per_thread: f64,
    /// Of all its reports.
    pub report: Report,
}

/// Runs it.
///
/// # Errors
/// The stand-in cannot be started, or the scenario cannot be run against it.
pub fn run(clients: usize, size: usize, threads: usize, bar: &ProgressBar) -> Result<SelfTest, ScenarioError> {
    check_files(clients as u64 * 2 + SPARE_FILES)?;
    let checks = [
        ("a run without faults passes", Fault::None, Outcome::default()),
        ("a lost delivery is counted", Fault::Lose, Outcome { lost: 1, offset_holes: 1, ..Outcome::default() }),
        (
            "a doubled delivery is counted",
            Fault::Double,
            Outcome { doubled: 1, offset_steps_back: 1, ..Outcome::default() },
        ),
        (
            "a reordered delivery is counted",
            Fault::Reorder,
            Outcome { reordered: 1, offset_holes: 1, offset_steps_back: 1, ..Outcome::default() },
        ),
    ];
    let rolled = rolled()?;
    let checks = checks.map(|(what, fault, wanted)| {
        let report = against(fault, &check_settings(), bar)?;
        let counted = Outcome { received: 0, ..report.deliveries };
        Ok(Check { what, noticed: counted == wanted && report.verdict.passed == (fault == Fault::None) })
    });
    let ceilings = [1, 8].map(|window| {
        let load = Load::Window(window);
        let settings = Settings { clients, size, load, duration: Duration::from_secs(3), ..Settings::default() };
        let settings = Settings { access: Access { threads, ..Access::default() }, ..settings };
        let report = against(Fault::None, &settings, bar)?;
        let cpu_us_per_delivery = report.generator.cpu_us_per_delivery;
        Ok(Ceiling {
            window,
            deliveries_per_second: report.deliveries_per_second,
            cpu_us_per_delivery,
            ceiling_per_thread: if cpu_us_per_delivery > 0.0 { 1e6 / cpu_us_per_delivery } else { 0.0 },
            report,
        })
    });
    Ok(SelfTest {
        checks: checks.into_iter().chain(rolled.into_iter().map(Ok)).collect::<Result<_, ScenarioError>>()?,
        ceilings: ceilings.into_iter().collect::<Result<_, ScenarioError>>()?,
    })
}

/// Clients of all kinds that are sent away and taken back; each check has a cluster of its own, all at the same time.
fn rolled() -> Result<Vec<Check>, ScenarioError> {
    let checks = [
        ("a roll without faults passes", Misstep::None, ""),
        ("a roll that loses a delivery fails", Misstep::Lose, "1 deliveries lost"),
        ("a roll that doubles a delivery fails", Misstep::Double, "1 deliveries doubled"),
        ("a recovery that leaves one out fails", Misstep::LeaveOut, "1 deliveries lost"),
        ("a recovery that is none fails", Misstep::StartOver, "1 returns that were not recovered"),
        ("a key that is forgotten fails", Misstep::ForgetKey, "deliveries doubled"),
        ("a session that is forgotten fails", Misstep::Rename, "came back as another client"),
        ("a close with a wrong code fails", Misstep::WrongCode, "1 connections ended with 1011"),
        ("an end without a word fails", Misstep::Cut, "1 connections ended with none"),
        ("who come back in a heap fail", Misstep::Crowd, "came back within 100 ms"),
    ];
    let running = checks.map(|(what, misstep, reason)| {
        let check = move || {
            let reasons = sent_away(misstep)?.verdict.reasons;
            let noticed = match misstep {
                Misstep::None => reasons.is_empty(),
                _ => reasons.iter().any(|told| told.contains(reason)),
            };
            Ok(Check { what, noticed })
        };
        thread::Builder::new().spawn(check).map_err(ScenarioError::Start)
    });
    let ended = |check: Result<thread::JoinHandle<_>, _>| check?.join().unwrap_or_else(|panic| resume_unwind(panic));
    running.into_iter().map(ended).collect()
}

fn sent_away(misstep: Misstep) -> Result<Rolling, ScenarioError> {
    let cluster = StandIn::start_rolled(misstep).map_err(ScenarioError::Start)?;
    // Bare clients come back at random moments: who looks for heaps leaves them out.
    let mix = if misstep == Misstep::Crowd { "json,protobuf" } else { "json,protobuf,raw" };
    roll::run(
        &roll::Settings {
            access: Access { threads: 1, ..Access::to(vec![cluster.url()]) },
            clients: 12,
            mix: mix.parse().map_err(ScenarioError::Usage)?,
            channels: 1,
            rate: 100.0,
            duration: Duration::from_secs(1),
            api: vec![cluster.api()],
            patience: Duration::from_secs(1),
            thresholds: Thresholds { reconnects: Some(11), returns: 12, ..Thresholds::default() },
            ..roll::Settings::default()
        },
        &ProgressBar::hidden(),
    )
}

/// Few clients and publications, and little patience: what is lost never comes.
fn check_settings() -> Settings {
    Settings {
        clients: 5,
        load: Load::Rate(100.0),
        duration: Duration::from_millis(100),
        patience: Duration::from_millis(500),
        access: Access { threads: 1, ..Access::default() },
        ..Settings::default()
    }
}

fn against(fault: Fault, settings: &Settings, bar: &ProgressBar) -> Result<Report, ScenarioError> {
    let node = StandIn::start(fault).map_err(|error: io::Error| ScenarioError::Start(error))?;
    let access = Access { urls: vec![node.url()], ..settings.access.clone() };
    fanout::run(&Settings { access, ..settings.clone() }, bar)
}

impl SelfTest {
    /// Everything was noticed, and nothing went wrong without a fault.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.noticed)
            && self.ceilings.iter().all(|ceiling| ceiling.report.verdict.passed)
    }
}

impl fmt::Display for SelfTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Check { what, noticed } in &self.checks {
            writeln!(f, "{} {what}", if *noticed { "yes" } else { "NO " })?;
        }
        for ceiling in &self.ceilings {
            let Ceiling { window, deliveries_per_second: rate, cpu_us_per_delivery: cpu, ceiling_per_thread, report } =
                ceiling;
            writeln!(
                f,
                "{window} in flight: {rate:.0} deliveries/s received, {cpu:.2} µs of generator CPU each; \
                 one receiving thread can take {ceiling_per_thread:.0}/s"
            )?;
            for reason in &report.verdict.reasons {
                writeln!(f, "    {reason}")?;
            }
        }
        write!(f, "{}", if self.passed() { "PASSED" } else { "FAILED" })
    }
}
