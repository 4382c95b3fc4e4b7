// State of a snapshot besides entries: event time, counts, consumers and sketch.
#pragma once

#include <cstdint>
#include <optional>

#include "snapshot/entries.hpp"
#include "snapshot/file.hpp"
#include "table/table_content.hpp"

namespace monolith {

inline void write_state(Writer& out, const TableContent& content) {
    content.ticks.write(out);
    Counts::visit(out, content.counts);
    content.changes.write(out);
    out.field(uint64_t{content.sketch ? content.sketch->bytes() : 0});
    if (content.sketch) out.bytes(content.sketch->data(), content.sketch->bytes());
}

// `newest`: as for EventTicks::read.
inline void read_state(const SnapshotFileReader& file, const TableSettings& saved, Share share, TableContent& content,
                       std::optional<int64_t> newest) {
    Reader in = file.reader(file.only(ChunkTag::kState));
    content.ticks.read(in, content.map, newest);
    Counts::visit(in, content.counts);
    content.changes.read(in, [&](int64_t fid) { return share.has(fid); });
    const auto sketch_bytes = in.value<uint64_t>();
    // Counts of another sketch have no place here: it starts empty.
    if (content.sketch && sketch_bytes == content.sketch->bytes() &&
        saved.sketch_window_s == content.settings.sketch_window_s)
        in.bytes(content.sketch->data(), sketch_bytes);
    else
        in.skip(sketch_bytes);
}

}  // namespace monolith
