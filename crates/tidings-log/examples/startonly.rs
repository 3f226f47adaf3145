//! x
use tidings_log::*;
struct S;
impl Listener for S {
    fn committed(&mut self, _: &[EventRef<'_>]) {}
    fn health_changed(&mut self, _: &Health) {}
}
fn main() {
    let p = std::env::args().nth(1).unwrap();
    for _ in 0..3 {
        let o = LogOptions {
            max_bytes: 0,
            ..LogOptions::new(&p)
        };
        let t = std::time::Instant::now();
        let l = Log::open(o, Box::new(S)).unwrap();
        println!("open {:?} {}", t.elapsed(), l.tail());
        l.close();
    }
}
