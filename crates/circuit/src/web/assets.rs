//! The page's files, which are in the binary.

use std::sync::LazyLock;

use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};

struct Asset {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

macro_rules! asset {
    ($path:literal, $file:literal, $kind:expr) => {
        Asset {
            path: $path,
            kind: $kind,
            bytes: include_bytes!(concat!("../../web/", $file)),
        }
    };
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const PAGE: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

static ASSETS: [Asset; 14] = [
    asset!("/", "index.html", PAGE),
    asset!("/style.css", "style.css", STYLE),
    asset!("/app.js", "app.js", SCRIPT),
    asset!("/details.js", "details.js", SCRIPT),
    asset!("/dom.js", "dom.js", SCRIPT),
    asset!("/layout.js", "layout.js", SCRIPT),
    asset!("/list.js", "list.js", SCRIPT),
    asset!("/live.js", "live.js", SCRIPT),
    asset!("/looks.js", "looks.js", SCRIPT),
    asset!("/map.js", "map.js", SCRIPT),
    asset!("/model.js", "model.js", SCRIPT),
    asset!("/motion.js", "motion.js", SCRIPT),
    asset!(
        "/vendor/cytoscape.min.js",
        "vendor/cytoscape.min.js",
        SCRIPT
    ),
    asset!("/icon.svg", "icon.svg", "image/svg+xml"),
];

/// So that a browser keeps what has not changed, and no longer.
static TAGS: LazyLock<[String; ASSETS.len()]> = LazyLock::new(|| {
    ASSETS.each_ref().map(|asset| {
        format!(
            "\"{:08x}-{:x}\"",
            crc32fast::hash(asset.bytes),
            asset.bytes.len()
        )
    })
});

/// A file of the page.
pub(super) async fn asset(uri: Uri, headers: HeaderMap) -> Response {
    let found = ASSETS.iter().zip(&*TAGS);
    let mut found = found.filter(|(asset, _)| asset.path == uri.path());
    let Some((asset, tag)) = found.next() else {
        return (StatusCode::NOT_FOUND, "there is nothing here\n").into_response();
    };
    let about = [
        (header::CONTENT_TYPE, asset.kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::ETAG, tag.as_str()),
    ];
    let has = headers.get(header::IF_NONE_MATCH);
    if has.is_some_and(|has| has.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    (about, asset.bytes).into_response()
}
