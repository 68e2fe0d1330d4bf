//! The run in the terminal.

use std::time::{Duration, Instant};

use anyhow::Result;
use paged_attn::engine::Engine;
use paged_attn::frame::Frame;
use paged_attn::view::View;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

const KEYS: &str = " space: stop and go on   n: one step   + -: pace   q: leave";

/// Steps until the requests are served and somebody leaves, and returns the last frame; none if
/// somebody left before.
pub(crate) fn run(engine: &mut Engine<'_>, delay: Duration) -> Result<Option<Frame>> {
    let mut terminal = ratatui::try_init()?;
    let done = play(&mut terminal, engine, delay);
    // The terminal is given back first, whatever there is to say.
    ratatui::try_restore()?;
    done
}

fn play(
    terminal: &mut DefaultTerminal,
    engine: &mut Engine<'_>,
    mut delay: Duration,
) -> Result<Option<Frame>> {
    let mut view = View::new(KEYS);
    let (mut last, mut paused, mut ended) = (None, false, false);
    let mut next = Instant::now();
    loop {
        if !ended && !paused && Instant::now() >= next {
            next = Instant::now() + delay;
            ended = !step(engine, &mut view, &mut last)?;
        }
        if ended {
            view.status = " served; q: leave and compare with each request alone".to_owned();
        }
        terminal.draw(|target| view.draw(target))?;
        let patience =
            next.saturating_duration_since(Instant::now()).min(Duration::from_millis(100));
        if !event::poll(if ended || paused { Duration::from_millis(100) } else { patience })? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        let is_interrupt = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            _ if key.kind == KeyEventKind::Release => {}
            KeyCode::Char('c') if is_interrupt => return Ok(None),
            KeyCode::Char('q') | KeyCode::Esc => return Ok(last.filter(|_| ended)),
            KeyCode::Char(' ') => paused = !paused,
            KeyCode::Char('n') if !ended => {
                paused = true;
                ended = !step(engine, &mut view, &mut last)?;
            }
            KeyCode::Char('+') => delay /= 2,
            KeyCode::Char('-') => {
                delay = (delay * 2).clamp(Duration::from_millis(1), Duration::from_secs(5))
            }
            _ => {}
        }
    }
}

/// False if there was nothing left to do.
fn step(engine: &mut Engine<'_>, view: &mut View, last: &mut Option<Frame>) -> Result<bool> {
    let Some(frame) = engine.step()? else { return Ok(false) };
    view.update(frame.clone());
    *last = Some(frame);
    Ok(true)
}
