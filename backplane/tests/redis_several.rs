//! The backplane over several independent Redis keeps the same promises.

mod support;

use skywave_backplane::RedisOptions;
use support::{Server, cluster::Corner};

async fn several() -> Corner<impl Fn() -> RedisOptions> {
    let servers = [Server::started().await, Server::started().await, Server::started().await];
    Corner(move || {
        let urls = servers.each_ref().map(Server::url);
        let urls: Vec<_> = urls.iter().map(String::as_str).collect();
        RedisOptions::parse_all(&urls, "skywave", None, None, "test node").expect("good addresses")
    })
}

skywave_backplane::promises!(several().await);
