// State of a snapshot besides entries: event time, counts, consumers and sketch.
#pragma once

#include <cstdint>

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

inline void read_state(const SnapshotFileReader& file, Share share, TableContent& content) {
    Reader in = file.reader(file.only(ChunkTag::kState));
    content.ticks.read(in, content.map);
    Counts::visit(in, content.counts);
    content.changes.read(in, [&](int64_t fid) { return share.has(fid); });
    const auto sketch_bytes = in.value<uint64_t>();
    if (sketch_bytes != (content.sketch ? content.sketch->bytes() : 0))
        throw SnapshotError(file.path() + ": is of another table: sketch_bytes expected " +
                            std::to_string(content.sketch ? content.sketch->bytes() : 0) + ", got " +
                            std::to_string(sketch_bytes));
    if (content.sketch) in.bytes(content.sketch->data(), sketch_bytes);
}

}  // namespace monolith
