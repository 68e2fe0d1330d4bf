//! Generations as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::stream::{self, BoxStream, SelectAll};
use futures_util::{Stream, StreamExt as _};
use openai_api::{ApiError, sse};

use super::failure::failed;
use crate::engine::{Event, Generation};

/// Writes the events of generations as frames.
pub(crate) trait Frames: Send + 'static {
    /// Something happened to the generation of this prompt.
    fn event(&mut self, prompt: usize, event: Event, out: &mut Vec<u8>);

    /// All generations are done.
    fn end(&mut self, out: &mut Vec<u8>);

    /// One failed; nothing comes after this.
    fn failed(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        out.extend(sse::event("error", &error.body()));
    }
}

/// Streams generations, once there is something of the first answer. What fails before has a status of
/// its own, and a proxy may send the request to another server until it has seen our head.
pub(crate) async fn respond(
    generations: Vec<Generation>,
    mut frames: impl Frames,
    keep_alive: Duration,
) -> Result<Response, ApiError> {
    let mut events = merge(generations);
    let mut first = Vec::new();
    loop {
        match events.next().await {
            Some((_, Event::Failed(error))) => return Err(failed(&error)),
            Some((prompt, event @ Event::Started { .. })) => {
                frames.event(prompt, event, &mut first);
            }
            Some((prompt, event)) => break frames.event(prompt, event, &mut first),
            None => break frames.end(&mut first),
        }
    }
    let head = stream::once(async move { first });
    let rest =
        stream::unfold(State { events, frames, ended: false }, move |mut state| async move {
            let out = state.next(keep_alive).await?;
            Some((out, state))
        });
    let body = head.chain(rest).filter(|out| std::future::ready(!out.is_empty()));
    Ok(event_stream(body.map(Bytes::from)))
}

/// A response of server-sent events.
pub(crate) fn event_stream(body: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let mut response = Response::new(Body::from_stream(body.map(Ok::<_, Infallible>)));
    let headers = response.headers_mut();
    let fixed = |text| HeaderValue::from_static(text);
    headers.insert(header::CONTENT_TYPE, fixed("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, fixed("no-cache"));
    // Proxies must not gather what is to be seen at once.
    headers.insert("x-accel-buffering", fixed("no"));
    response
}

struct State<F> {
    events: SelectAll<BoxStream<'static, (usize, Event)>>,
    frames: F,
    ended: bool,
}

impl<F: Frames> State<F> {
    /// The next bytes, `None` behind the last.
    async fn next(&mut self, keep_alive: Duration) -> Option<Vec<u8>> {
        if self.ended {
            return None;
        }
        let mut out = Vec::new();
        match tokio::time::timeout(keep_alive, self.events.next()).await {
            Err(_) => out.extend_from_slice(sse::KEEP_ALIVE),
            Ok(Some((_, Event::Failed(error)))) => {
                self.frames.failed(&failed(&error), &mut out);
                self.ended = true;
            }
            Ok(Some((prompt, event))) => self.frames.event(prompt, event, &mut out),
            Ok(None) => {
                self.frames.end(&mut out);
                self.ended = true;
            }
        }
        Some(out)
    }
}

fn merge(generations: Vec<Generation>) -> SelectAll<BoxStream<'static, (usize, Event)>> {
    let of = |(prompt, generation): (usize, Generation)| {
        let events = stream::unfold(generation, |mut generation| async move {
            let event = generation.next().await?;
            Some((event, generation))
        });
        events.map(move |event| (prompt, event)).boxed()
    };
    stream::select_all(generations.into_iter().enumerate().map(of))
}
