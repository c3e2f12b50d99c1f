//! The backplane through Redis keeps the same promises. Each test has a redis-server of its own.

mod support;

use support::Server;

skywave_backplane::promises!(Server::started().await);
