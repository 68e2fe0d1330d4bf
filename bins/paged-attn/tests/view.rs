//! The picture in a terminal of two sizes, drawn from real steps.

use paged_attn::bard::Bard;
use paged_attn::engine::{Engine, EngineConfig};
use paged_attn::frame::Frame;
use paged_attn::plain;
use paged_attn::requests::Workload;
use paged_attn::view::View;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use scheduler::Budget;

/// The frames of a small run.
fn frames() -> Vec<Frame> {
    let bard = Bard::load().unwrap();
    let workload =
        Workload { requests: 3, sequences: 2, max_tokens: 12, temperature: 0.8, seed: 42 };
    let requests = workload.requests(&bard.tokenizer).unwrap();
    let budget = Budget { rows: 64, prompt_rows: 24 };
    let config = EngineConfig { block_size: 8, blocks: 48, budget };
    let mut engine = Engine::new(&bard.model, &bard.tokenizer, requests, config).unwrap();
    std::iter::from_fn(|| engine.step().unwrap()).collect()
}

/// What a terminal of that size shows.
fn screen(view: &View, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|target| view.draw(target)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(line).collect()
}

#[test]
fn both_sizes_show_blocks_tables_answers_and_events() {
    let frames = frames();
    // When all are there and most is shared.
    let most = (0..frames.len()).max_by_key(|&i| frames[i].pool.entries).unwrap();
    let mut view = View::new(" the keys");
    frames[..=most].iter().for_each(|f| view.update(f.clone()));
    let frame = &frames[most];
    for (width, height) in [(80, 24), (140, 40)] {
        let lines = screen(&view, width, height);
        let all = lines.join("\n");
        for title in ["physical blocks", "logical to physical", "answers", "what happens"] {
            assert!(all.contains(title), "{width}: {title}\n{all}");
        }
        assert!(lines[0].contains(&format!("{} of 48 blocks used", frame.pool.used)), "{all}");
        assert!(lines[usize::from(height) - 1].starts_with(" the keys"));
        for s in &frame.sequences {
            let line = format!("{}  {:>3} positions", s.name, s.positions);
            assert!(all.contains(&line), "{width}: {line}\n{all}");
        }
        // A block that several tables hold is marked in the map: "  3*4".
        let shared = frame.blocks.iter().position(|b| b.references > 1).unwrap();
        let mark = format!("{shared:>3}*{}", frame.blocks[shared].references);
        assert!(all.contains(&mark), "{width}: {mark}\n{all}");
        let newest = frames[..=most].iter().flat_map(|f| &f.events).next_back().unwrap();
        let (kind, text) = plain::tell(newest);
        assert!(all.contains(&format!("{kind:<9} {}", &text[..20])), "{width}: {text}\n{all}");
    }
}

#[test]
fn no_size_is_too_small() {
    let mut view = View::default();
    frames().into_iter().for_each(|f| view.update(f));
    for size in [(1, 1), (2, 3), (5, 40), (100, 2), (300, 3)] {
        let lines = screen(&view, size.0, size.1);
        assert_eq!(lines.len(), usize::from(size.1));
    }
    // Nothing was computed yet.
    screen(&View::default(), 80, 24);
}
