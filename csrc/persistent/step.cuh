// SPDX-License-Identifier: Apache-2.0
// The persistent step: one verification step of the whole batch in one cooperative launch
// (docs/design.md, section 16). In order, with a grid barrier behind each:
//   begin | slim pass | verify | slim | slim rows kept, path noted, accepted rows moved
//   only if a row escalates: prefix pass (only if needed) | tail pass | audit | full | rows moved
// or, without a slim verifier, begin | full pass | verify | full | rows moved. The same bodies, on
// the same arrays, as the launches of via_ext/engines/device_stages.py; which rows escalate is read
// by every block behind a barrier, so that all take the same branch without the host.
// Mapping: blocks of 256 threads, one to a multiprocessor. Verify takes its units from a queue in
// the work space, stages a batch row to a block, moves half a block to a cache and batch row.
// Bytes: those of the passes; of the logits what verify reads; a few KB per row for the stages.
// Numerics: csrc/cuda/verify.cuh; the results depend neither on the grid nor on the timing.
#pragma once

#include "persistent/grid_barrier.cuh"
#include "persistent/stamps.cuh"
#include "persistent/step_phases.cuh"

namespace via::persistent {

// The barrier behind a phase. Where verify or filtered_probs gave up a wait, every block comes here
// soon, and none may go on: the phase's results are not there. A give-up has set the abort word,
// but knows nothing of Control.
VIA_DEVICE bool step_sync(GridBarrier& barrier, StampedStage stage) {
  bool is_aborted = false;
  if (threadIdx.x == 0 && launch_is_aborted(barrier.control)) {
    abort_launch(barrier.control, FaultCode::kWait, stage, barrier.epoch, 0);
    is_aborted = true;
  }
  if (__syncthreads_or(is_aborted ? 1 : 0) != 0) return false;
  return grid_sync(barrier, stage);
}

template <StepStage kStage>
VIA_DEVICE bool run_stage_phase(const StepArgs& args, GridBarrier& barrier) {
  VIA_STAMP_BEGIN(args.model.stamps, kStampStage);
  stage_phase<kStage>(args);
  VIA_STAMP_END(args.model.stamps);
  return step_sync(barrier, kStampStage);
}

VIA_DEVICE bool run_verify_phase([[maybe_unused]] const StepArgs& args,
                                 const cuda::VerifyArgs& call, GridBarrier& barrier,
                                 unsigned char* scratch) {
  VIA_STAMP_BEGIN(args.model.stamps, kStampVerify);
  verify_phase(call, scratch);
  VIA_STAMP_END(args.model.stamps);
  return step_sync(barrier, kStampVerify);
}

// Behind it, or another of these, a __syncthreads: scratch changes hands.
VIA_DEVICE void run_slim_rows(const StepArgs& args, unsigned char* scratch) {
  VIA_STAMP_BEGIN(args.model.stamps, kStampSlimRows);
  slim_rows_phase(args, scratch);
  VIA_STAMP_END(args.model.stamps);
}
VIA_DEVICE void run_note_path(const StepArgs& args, int column, unsigned char* scratch) {
  VIA_STAMP_BEGIN(args.model.stamps, kStampSlimRows);
  note_path_phase(args, column, scratch);
  VIA_STAMP_END(args.model.stamps);
}
VIA_DEVICE void run_compact(const StepArgs& args, bool with_hidden, unsigned char* scratch) {
  if (args.moves.num_caches == 0) return;
  VIA_STAMP_BEGIN(args.model.stamps, kStampCompact);
  compact_phase(args, with_hidden, scratch);
  VIA_STAMP_END(args.model.stamps);
}

// Behind the slim pass, up to what a full pass needs; `is_full`: a row escalates.
VIA_DEVICE_CALL bool judge_slim(const StepArgs& args, GridBarrier& barrier, unsigned char* scratch,
                                bool& is_full) {
  if (!run_verify_phase(args, args.slim, barrier, scratch)) return false;
  if (!run_stage_phase<StepStage::kSlim>(args, barrier)) return false;
  is_full = any_word(args.step, kWordFull);
  if (args.saves_rows) {
    run_slim_rows(args, scratch);
  } else if (is_full && args.notes_path) {
    run_note_path(args, 0, scratch);
  }
  __syncthreads();
  run_compact(args, true, scratch);
  // The tail's logits take the place of those that were just read.
  return !is_full || step_sync(barrier, kStampSlimRows);
}

// Behind the full model's pass, to the end of the step.
VIA_DEVICE_CALL bool judge_full(const StepArgs& args, GridBarrier& barrier,
                                unsigned char* scratch) {
  const StepAudit audit = args.step.has_slim ? args.step.audit : StepAudit::kNone;
  if (audit != StepAudit::kNone && !run_verify_phase(args, args.audit, barrier, scratch))
    return false;
  if (audit == StepAudit::kGreedy) {
    if (!run_stage_phase<StepStage::kGreedy>(args, barrier)) return false;
  } else {
    if (audit == StepAudit::kChain && !run_stage_phase<StepStage::kAudit>(args, barrier)) {
      return false;
    }
    if (args.notes_path) run_note_path(args, 1, scratch);
    __syncthreads();
    if (!run_verify_phase(args, args.full, barrier, scratch)) return false;
    if (!run_stage_phase<StepStage::kFull>(args, barrier)) return false;
  }
  run_compact(args, false, scratch);
  return true;
}

// `passes` has `args`, `barrier`, `kind`, the pass to run, run(input), that pass of the model with
// its barriers, false if the launch is aborted, and scratch(), shared memory for what runs between
// passes. False if aborted. Passes are run from one place, for one copy of their code, and all that
// outlives one is kept in `passes`, in memory: they need every register.
template <class Passes>
VIA_DEVICE bool run_step(Passes& passes) {
  if (!run_stage_phase<StepStage::kBegin>(passes.args, passes.barrier)) return false;
  passes.kind = passes.args.step.has_slim ? PassKind::kSlim : PassKind::kFull;
#pragma unroll 1
  while (true) {
    const bool is_tail = passes.kind == PassKind::kTail;
    if (!passes.run(is_tail ? passes.args.tail : passes.args.block)) return false;
    if (passes.kind == PassKind::kFull || passes.kind == PassKind::kTail) break;
    if (passes.kind == PassKind::kPrefix) {
      passes.kind = PassKind::kTail;
      continue;
    }
    bool is_full = false;
    if (!judge_slim(passes.args, passes.barrier, passes.scratch(), is_full)) return false;
    if (!is_full) return true;
    passes.kind = any_word(passes.args.step, kWordPrefix) ? PassKind::kPrefix : PassKind::kTail;
  }
  return judge_full(passes.args, passes.barrier, passes.scratch());
}

}  // namespace via::persistent
