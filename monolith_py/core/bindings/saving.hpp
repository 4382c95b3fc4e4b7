// A snapshot in progress, as Python sees it. Included only by bindings/table.cpp.
#pragma once

#include <mutex>
#include <optional>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "bindings/table.hpp"
#include "snapshot/writer.hpp"

namespace monolith {

// A snapshot in progress; a table has at most one. The binding keeps the table alive for it. A failed or cancelled
// snapshot ends the tracking of changes: the changes that it copied are in no file, so no increment can follow.
// One thread at a time. The table's lock: the constructor, `copy`, `finish`, `cancel` and `commit` take it; file writes
// run without it.
class Saving {
  public:
    Saving(Table& table, const std::string& path, uint64_t id, uint64_t parent) : table_(table) {
        std::unique_lock lock(table.mutex);
        if (table.is_saving) throw std::invalid_argument("a snapshot of this table is in progress");
        writer_.emplace(table.table, path, id, parent);
        table.is_saving = true;
    }
    Saving(const Saving&) = delete;
    Saving& operator=(const Saving&) = delete;
    ~Saving() { cancel(); }
    void cancel() {
        if (writer_) end(false);
    }
    bool copy(size_t max_rows) {
        return or_end([&] {
            if (is_finished_) throw std::invalid_argument("this snapshot is finished already");
            CopyStatus status;
            {
                std::unique_lock lock(table_.mutex);
                status = writer().copy(max_rows);
            }
            writer().flush();
            return status == CopyStatus::kMore;
        });
    }
    void finish() {
        or_end([&] {
            std::unique_lock lock(table_.mutex);
            if (is_finished_) throw std::invalid_argument("this snapshot is finished already");
            writer().finish();
            is_finished_ = true;
        });
    }
    void commit(bool track) {
        or_end([&] {
            if (!is_finished_) throw std::invalid_argument("this snapshot must be finished before it is committed");
            if (!track) {
                std::unique_lock lock(table_.mutex);
                table_.table.stop_tracking();
            }
            writer().commit();
        });
        end(track);
    }

  private:
    template <typename Step>
    std::invoke_result_t<Step> or_end(Step&& step) {
        writer();
        try {
            return step();
        } catch (const std::invalid_argument&) {
            throw;
        } catch (...) {  // an error of the file, or no memory
            end(false);
            throw;
        }
    }
    void end(bool track) {
        writer_.reset();
        std::unique_lock lock(table_.mutex);
        if (!track) table_.table.stop_tracking();
        table_.is_saving = false;
    }
    SnapshotWriter& writer() {
        if (!writer_) throw std::invalid_argument("this snapshot is written already");
        return *writer_;
    }
    Table& table_;
    std::optional<SnapshotWriter> writer_;
    bool is_finished_ = false;
};

}  // namespace monolith
