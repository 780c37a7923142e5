// SPDX-License-Identifier: Apache-2.0
// The cases of persistent_pass_main.cpp, which includes this file behind its helpers.
#pragma once

void test_llama() {
  test_model<Narrow64>(toy_shape(128, 2, 3, 1, 64, 200, 517), {1, 9, 32, 4, 1}, {{11, 9, false}},
                       1);
}

void test_tied_tree() {
  ModelShape shape = toy_shape(128, 2, 2, 1, 64, 136, 517);
  shape.is_tied = true;
  test_model<Narrow64>(shape, {1, 20, 340, 3, 1}, {{300, 20, true}}, 2);
}

void test_qwen2() {
  ModelShape shape = toy_shape(192, 2, 8, 1, 64, 72, 261);
  shape.has_bias = true;
  test_model<Plain64>(shape, {1, 16, 64, 5, 1}, {{0, 16, true}}, 3);
}

void test_qwen3() {
  ModelShape shape = toy_shape(256, 2, 3, 3, 128, 104, 261);
  shape.has_head_norms = true;
  test_model<Plain128>(shape, {1, 5, 64, 8, 1}, {{21, 5, true}}, 4);
}

// Three rows, one of which sits the pass out; a window that cuts into one context; 33 live tokens.
void test_ragged() {
  EngineSizes sizes = {3, 21, 180, 4, 1};
  sizes.window = 100;
  test_model<Narrow64>(toy_shape(128, 2, 2, 2, 64, 72, 133), sizes,
                       {{150, 21, true}, {40, 0, false}, {3, 12, false}}, 5);
}

// Skipped sublayers, among them the last of all and both of one layer.
void test_slim_gates() {
  ToyModel model(toy_shape(128, 3, 2, 1, 64, 72, 133), 40, 6);
  ToyEngine engine(model, {1, 6, 32, 4, 1});
  Random random(6);
  engine.set_row(0, draw_tokens(random, model, 9, 6, false), random);
  for (const int gate : {2, 3, 5}) close_gate(engine, PassKind::kSlim, gate);
  const std::vector<BFloat16> before = copy_of(engine.cache());
  launch<Narrow64>(engine, PassKind::kSlim);
  expect_sound(engine);
  expect_row(engine, 0, engine.expected(0, PassKind::kSlim, 0, 3), true);
  expect_hidden(engine, 0, engine.expected(0, PassKind::kSlim, 0, 1));
  expect_untouched(engine, before, PassKind::kSlim);
}

// The prefix and the rest, in one launch, give the bits of the full pass.
void test_prefix_and_tail() {
  ToyModel model(toy_shape(128, 3, 3, 1, 64, 72, 133), 40, 7);
  ToyEngine engine(model, {2, 7, 32, 3, 2});
  Random random(7);
  engine.set_row(0, draw_tokens(random, model, 9, 7, true), random);
  engine.set_row(1, draw_tokens(random, model, 20, 4, false), random);
  launch<Narrow64>(engine, PassKind::kFull);
  expect_sound(engine);
  const std::vector<BFloat16> cache = copy_of(engine.cache());
  const std::vector<float> logits(engine.all_logits().begin(), engine.all_logits().end());
  std::memset(static_cast<void*>(engine.all_logits().data()), 0xff, 4 * logits.size());
  launch<Narrow64>(engine, PassKind::kPrefix, PassKind::kTail);
  expect_sound(engine);
  checker.expect(std::memcmp(cache.data(), engine.cache().data(), 2 * cache.size()) == 0,
                 "%s: another cache", case_name);
  for (int b = 0; b < 2; ++b) {
    expect_hidden(engine, b, engine.expected(b, PassKind::kPrefix, 0, 2));
    expect_row(engine, b, engine.expected(b, PassKind::kFull, 0, 3), true);
    for (int i = 0; i < engine.count(b); ++i) {
      const std::size_t row = static_cast<std::size_t>(engine.logits(b, i) - engine.logits(0, 0));
      checker.expect(std::memcmp(&logits[row], engine.logits(b, i), 4 * 133) == 0,
                     "%s: other logits in row %d, token %d", case_name, b, i);
    }
  }
}

// A row whose tokens do not fit its cache: nothing of it is written there, the other is right.
void test_full_row() {
  ToyModel model(toy_shape(64, 2, 2, 1, 64, 64, 64), 40, 9);
  ToyEngine engine(model, {2, 4, 32, 2, 1});
  Random random(9);
  engine.set_row(0, draw_tokens(random, model, 12, 4, false), random);
  engine.set_row(1, draw_tokens(random, model, 32, 3, false), random);
  const std::vector<BFloat16> before = copy_of(engine.cache());
  launch<Narrow64>(engine, PassKind::kFull);
  expect_sound(engine);
  expect_row(engine, 0, engine.expected(0, PassKind::kFull, 0, 2), true);
  expect_untouched(engine, before, PassKind::kFull);
}

// Blocks that give up on others that are only slow: some pass a barrier that others leave.
void test_hasty_watchdog() {
  ToyModel model(toy_shape(64, 1, 1, 1, 64, 64, 64), 40, 10);
  ToyEngine engine(model, {1, 3, 32, 3, 1});
  Random random(10);
  engine.set_row(0, draw_tokens(random, model, 9, 3, false), random);
  for (const unsigned long long limit_ns : {0ull, 1ull, 2ull, 4ull}) {
    engine.args().watchdog_ns = limit_ns;
    launch<Narrow64>(engine, PassKind::kFull);
    const auto& control = engine.control();
    if (control.abort.value == 0) {
      expect_sound(engine);
    } else {
      checker.expect(control.fault[0].value == 1 && control.abort.value == 1, "%s: code %u",
                     case_name, control.fault[0].value);
    }
    engine.reset();
  }
  engine.args().watchdog_ns = via::cuda::watchdog_ns();
  launch<Narrow64>(engine, PassKind::kFull);
  expect_sound(engine);
  expect_row(engine, 0, engine.expected(0, PassKind::kFull, 0, 1), true);
}

#ifdef __CUDACC__
constexpr unsigned long long kShortNs = 20'000'000;  // all others have arrived by then
#else
constexpr unsigned long long kShortNs = 20;  // looks at the clock
#endif

// A pass without live tokens touches nothing; the counter wraps; then a block stays away.
void test_faults() {
  ToyModel model(toy_shape(64, 1, 1, 1, 64, 64, 64), 40, 8);
  ToyEngine engine(model, {1, 3, 32, 3, 1});
  Random random(8);
  auto& control = engine.control();
  launch<Narrow64>(engine, PassKind::kFull);  // counts are 0
  checker.expect(control.arrivals.value == 0, "%s: an empty pass arrives", case_name);
  engine.set_row(0, draw_tokens(random, model, 9, 3, false), random);
  const RowResult expected = engine.expected(0, PassKind::kFull, 0, 1);
  control.arrivals.value = control.base.value = 0xfffffffau;  // 3 blocks: wraps at the second
  launch<Narrow64>(engine, PassKind::kFull);
  expect_sound(engine);
  checker.expect(control.arrivals.value < 100, "%s: the counter did not wrap", case_name);
  expect_row(engine, 0, expected, true);

  engine.args().missing_block = 1;
  engine.args().watchdog_ns = kShortNs;
  const unsigned base = control.base.value;
  launch<Narrow64>(engine, PassKind::kFull);
  checker.expect(control.abort.value == 1 && control.fault[0].value == 1, "%s: no fault",
                 case_name);
  checker.expect(control.fault[via::persistent::kFaultEpoch].value == 1 &&
                     control.fault[via::persistent::kFaultBlock].value < 3 &&
                     control.fault[via::persistent::kFaultSeen].value == base + 2,
                 "%s: epoch %u, block %u, seen %u", case_name,
                 control.fault[via::persistent::kFaultEpoch].value,
                 control.fault[via::persistent::kFaultBlock].value,
                 control.fault[via::persistent::kFaultSeen].value);
  // Behind a fault nothing runs until the words are zero again.
  engine.args().missing_block = -1;
  engine.args().watchdog_ns = via::cuda::watchdog_ns();
  const unsigned arrivals = control.arrivals.value;
  launch<Narrow64>(engine, PassKind::kFull);
  checker.expect(control.arrivals.value == arrivals, "%s: runs behind a fault", case_name);
  engine.reset();
  std::memset(static_cast<void*>(engine.all_logits().data()), 0xff, 4 * engine.all_logits().size());
  launch<Narrow64>(engine, PassKind::kFull);
  expect_sound(engine);
  expect_row(engine, 0, expected, true);
}

struct TestCase {
  const char* name;
  void (*run)();
};
constexpr TestCase kCases[] = {{"llama", test_llama},
                               {"tied_tree", test_tied_tree},
                               {"qwen2", test_qwen2},
                               {"qwen3", test_qwen3},
                               {"ragged", test_ragged},
                               {"slim_gates", test_slim_gates},
                               {"prefix_and_tail", test_prefix_and_tail},
                               {"full_row", test_full_row},
                               {"hasty_watchdog", test_hasty_watchdog},
                               {"faults", test_faults}};
