//! What a browser sees: the page at `/` and the demos, all inside the binary.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use include_dir::{Dir, include_dir};

use super::route::Route;
use crate::config::Settings;

static DEMO: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/demo");

/// Nothing from elsewhere, no inline script, no framing by others.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Answers a GET or HEAD for a page.
pub(super) fn answer<B>(request: &Request<B>, settings: &Settings) -> Response<Full<Bytes>> {
    let mut response = match Route::of(request.uri().path()) {
        Some((Route::Index, _)) => index(request, settings),
        Some((Route::Style, _)) => {
            with_type(StatusCode::OK, "text/css; charset=utf-8", Bytes::from_static(INDEX_CSS.as_bytes()))
        }
        Some((Route::Demo, file)) if settings.demo.enabled => match file {
            None => moved(request.uri()),
            Some(folder) if DEMO.get_dir(folder).is_some_and(|_| !folder.ends_with('/')) => moved(request.uri()),
            Some(file) => demo(file),
        },
        _ => not_found(),
    };
    if request.method() == Method::HEAD {
        let length = response.headers().get(header::CONTENT_LENGTH).cloned();
        *response.body_mut() = Full::default();
        if let Some(length) = length {
            response.headers_mut().insert(header::CONTENT_LENGTH, length);
        }
    }
    response
}

pub(super) fn not_found() -> Response<Full<Bytes>> {
    let body = "not found; WebSockets are at /ws and /raw/{channel}\n";
    with_type(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", Bytes::from_static(body.as_bytes()))
}

/// A folder is named with a slash at its end, so that what its page refers to is looked for in it.
fn moved(from: &Uri) -> Response<Full<Bytes>> {
    let query = from.query().map(|query| format!("?{query}")).unwrap_or_default();
    let Ok(to) = HeaderValue::try_from(format!("{}/{query}", from.path())) else { return not_found() };
    let mut response = with_type(StatusCode::PERMANENT_REDIRECT, "text/plain; charset=utf-8", Bytes::new());
    response.headers_mut().insert(header::LOCATION, to);
    response
}

fn demo(file: &str) -> Response<Full<Bytes>> {
    let index = format!("{file}index.html");
    let file = if file.is_empty() || file.ends_with('/') { &index } else { file };
    let kind = match file.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => return not_found(),
    };
    DEMO.get_file(file)
        .map_or_else(not_found, |file| with_type(StatusCode::OK, kind, Bytes::from_static(file.contents())))
}

/// A response that a browser takes for what it says.
pub(super) fn with_type(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn index<B>(request: &Request<B>, settings: &Settings) -> Response<Full<Bytes>> {
    let version = env!("CARGO_PKG_VERSION");
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if !accept.contains("text/html") {
        let mode = if settings.development() { ", in development mode" } else { "" };
        let line = format!("Skywave {version}, a WebSocket gateway{mode}: connect to /ws\n");
        return with_type(StatusCode::OK, "text/plain; charset=utf-8", line.into());
    }
    let mode = if settings.development() {
        "<p class=\"mode\"><strong>Development mode.</strong> Anyone on this machine may connect, subscribe and \
         publish. For anything else start with <code>--config</code>.</p>"
    } else {
        ""
    };
    let demo = if settings.demo.enabled {
        "<li><a href=\"/demo/\">Shared cursors</a>: open it in two windows</li>\n\
         <li><a href=\"/demo/chat/\">Chat</a>: write in two windows, cut one off and see what comes back</li>"
    } else {
        ""
    };
    let page = INDEX.replace("{version}", version).replace("{mode}", mode).replace("{demo}", demo);
    with_type(StatusCode::OK, "text/html; charset=utf-8", page.into())
}

const INDEX: &str = include_str!("index.html");
const INDEX_CSS: &str = include_str!("index.css");
