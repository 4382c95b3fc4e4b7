// State of a snapshot besides entries: event time, counts, consumers and sketch.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "snapshot/entries.hpp"
#include "snapshot/file.hpp"
#include "table/table_content.hpp"

namespace monolith {

inline void write_state(Writer& out, const TableContent& content) {
    const EventTicks::Base base = content.ticks.base();
    out.fields(base.ticks, base.is_set);
    Counts::visit(out, content.counts);
    content.changes.write(out);
    out.field(uint64_t{content.sketch ? content.sketch->bytes() : 0});
    if (content.sketch) out.bytes(content.sketch->data(), content.sketch->bytes());
}

// State of a file, checked; a table that takes it cannot fail.
struct SavedState {
    EventTicks::Base base;
    Counts counts;
    Changes::Consumers consumers;
    Reader sketch;  // at the bytes of the sketch
    uint64_t sketch_bytes = 0;
};

inline SavedState read_state(const SnapshotFileReader& file, const TableSettings& saved, Share share) {
    Reader in = file.reader(file.only(ChunkTag::kState));
    EventTicks::Base base;
    in.fields(base.ticks, base.is_set);
    if (!EventTicks::is_time(base.ticks, EventTicks::step_s(saved.ttl_s)))
        throw SnapshotError(file.path() + ": damaged: the time of the state is out of range, " +
                            std::to_string(base.ticks));
    Counts counts;
    Counts::visit(in, counts);
    Changes::Consumers consumers = Changes::read(in, [&](int64_t fid) { return share.has(fid); });
    const auto sketch_bytes = in.value<uint64_t>();
    const Reader sketch = in;
    in.skip(sketch_bytes);
    in.finish();
    return {base, counts, std::move(consumers), sketch, sketch_bytes};
}

// `newest`: as for EventTicks::restore.
inline void take_state(SavedState&& state, const TableSettings& saved, TableContent& content,
                       std::optional<int64_t> newest) {
    content.ticks.restore(state.base, content.map, newest);
    state.counts.rows = content.counts.rows;
    state.counts.candidates = content.counts.candidates;
    content.counts = state.counts;
    content.changes.set_consumers(std::move(state.consumers));
    // Counts of another sketch have no place here: it starts empty.
    if (content.sketch && state.sketch_bytes == content.sketch->bytes() &&
        saved.sketch_window_s == content.settings.sketch_window_s)
        state.sketch.bytes(content.sketch->data(), state.sketch_bytes);
}

}  // namespace monolith
