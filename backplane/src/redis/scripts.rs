//! The atomic steps. Each is loaded when a connection is made and called by its digest, which a pipeline can.

use std::sync::LazyLock;

use redis::{Cmd, Script};

/// The scripts, ready to be loaded and called.
pub(super) struct Scripts {
    pub(super) publish: Step,
    pub(super) publish_live: Step,
    pub(super) line: Step,
    pub(super) page: Step,
    pub(super) generation: Step,
    pub(super) forget: Step,
    pub(super) join: Step,
    pub(super) leave: Step,
    pub(super) reap: Step,
    pub(super) beat: Step,
    pub(super) revoke: Step,
    pub(super) session: Step,
}

static PLAIN: LazyLock<Scripts> = LazyLock::new(|| Scripts::new("PUBLISH"));
static SHARDED: LazyLock<Scripts> = LazyLock::new(|| Scripts::new("SPUBLISH"));

/// Those for a single master or for a cluster, where a plain `PUBLISH` would go to every node of it.
pub(super) fn scripts(sharded: bool) -> &'static Scripts {
    if sharded { &SHARDED } else { &PLAIN }
}

impl Scripts {
    fn new(publish: &str) -> Self {
        let step = |code: &str| Step::new(code.replace("'PUBLISH'", &format!("'{publish}'")));
        Self {
            publish: step(&[APPEND, include_str!("scripts/publish.lua")].concat()),
            publish_live: step(include_str!("scripts/publish_live.lua")),
            line: step(include_str!("scripts/line.lua")),
            page: step(include_str!("scripts/page.lua")),
            generation: step(include_str!("scripts/generation.lua")),
            forget: step(include_str!("scripts/forget.lua")),
            join: step(&[APPEND, MEMBERS, include_str!("scripts/join.lua")].concat()),
            leave: step(&[APPEND, MEMBERS, include_str!("scripts/leave.lua")].concat()),
            reap: step(&[APPEND, MEMBERS, include_str!("scripts/reap.lua")].concat()),
            beat: step(include_str!("scripts/beat.lua")),
            revoke: step(include_str!("scripts/revoke.lua")),
            session: step(include_str!("scripts/session.lua")),
        }
    }

    fn all(&self) -> [&Step; 12] {
        [
            &self.publish,
            &self.publish_live,
            &self.line,
            &self.page,
            &self.generation,
            &self.forget,
            &self.join,
            &self.leave,
            &self.reap,
            &self.beat,
            &self.revoke,
            &self.session,
        ]
    }

    /// `SCRIPT LOAD` for each. LOAD and not EVAL: from Redis 7.4 on, what EVAL brought in can be evicted.
    pub(super) fn load(&self) -> redis::Pipeline {
        let mut pipeline = redis::pipe();
        for step in self.all() {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(&step.code);
        }
        pipeline
    }
}

/// What stands before the scripts that publish with history. No flags behind the `#!lua`: see `publish.lua`.
const APPEND: &str = concat!("#!lua\n", include_str!("scripts/append.lua"));
/// What stands before those of presence, behind [`APPEND`].
const MEMBERS: &str = include_str!("scripts/members.lua");

/// One script and its digest.
pub(super) struct Step {
    code: String,
    digest: Script,
}

impl Step {
    fn new(code: String) -> Self {
        Self { digest: Script::new(&code), code }
    }

    /// An `EVALSHA` with its keys; the arguments follow.
    pub(super) fn call(&self, keys: &[&str]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.digest.get_hash()).arg(keys.len()).arg(keys);
        command
    }
}
