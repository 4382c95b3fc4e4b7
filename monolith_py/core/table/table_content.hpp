// Content of a table: everything that its snapshots keep. Shared by insertion, update, eviction and snapshots.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "index/id_map.hpp"
#include "table/admission.hpp"
#include "table/changes.hpp"
#include "table/event_ticks.hpp"
#include "table/row_store.hpp"

namespace monolith {

// Rows and candidates are current numbers; the others count from the table's creation.
struct Counts {
    uint64_t rows = 0, candidates = 0;
    uint64_t admitted = 0, filtered = 0, evicted = 0;
    uint64_t freed = 0;  // rows set to zero by their rule: consumers free them, the table keeps their state
    // Batches updated; batches with missed fids; draws of the budget evictor.
    uint64_t updates = 0, plans = 0, samples = 0;

    // Counts that a snapshot stores; the others are recounted on restore.
    template <typename Archive, typename Self>
    static void visit(Archive& archive, Self& self) {
        archive.fields(self.admitted, self.filtered, self.evicted, self.freed, self.updates, self.plans, self.samples);
    }
};

struct TableContent {
    explicit TableContent(const TableSettings& given)
        : settings(laid_out(given)),
          row_bytes(static_cast<double>(sizeof(float) * (settings.dim() + state_width(settings)) + sizeof(int64_t)) +
                    kSlotBytes),
          store(settings.dim(), state_width(settings)),
          ticks(settings.ttl_s),
          changes(map, store) {
        if (settings.admission == Admission::kSketch)
            sketch = std::make_unique<SlidingSketch>(settings.sketch_bytes, settings.sketch_window_s);
    }

    // Erase an entry and its row, if it has one. Needs the table exclusively. On failure (std::bad_alloc) nothing
    // changes.
    void erase_entry(Slot slot) {
        const uint32_t row = slot.row();
        if (row == kCandidate) {
            changes.record_erased_candidate(slot.key());
            --counts.candidates;
        } else {
            changes.record_evicted(row, slot.key());
            store.release(row);
            --counts.rows;
        }
        map.erase(slot);
    }

    int64_t seen_s(Slot slot) const { return ticks.seconds(ticks.absolute(slot.seen())); }

    double used_bytes() const {
        return static_cast<double>(counts.rows) * row_bytes + static_cast<double>(counts.candidates) * kSlotBytes;
    }
    size_t bytes() const { return map.bytes() + store.bytes() + (sketch ? sketch->bytes() : 0) + changes.bytes(); }
    std::map<std::string, uint64_t> stats() const {
        return {{"rows", counts.rows},
                {"candidates", counts.candidates},
                {"admitted", counts.admitted},
                {"filtered", counts.filtered},
                {"evicted", counts.evicted},
                {"freed", counts.freed},
                {"bytes", bytes()},
                {"id_map_capacity", map.capacity()}};
    }

    static constexpr double kSlotBytes = 16 / 0.65;  // memory of an id map entry at the mean load

    TableSettings settings;
    double row_bytes;  // memory of one row: weights, state, fid and id map entry
    IdMap map;
    RowStore store;
    std::unique_ptr<SlidingSketch> sketch;  // only with Admission::kSketch
    EventTicks ticks;
    Counts counts;
    Changes changes;
    uint64_t snapshot_id = 0;  // newest snapshot saved or restored; 0: none
};

}  // namespace monolith
