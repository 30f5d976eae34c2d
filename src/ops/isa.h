// The instruction set that kernels run on, chosen once at start from what the processor has:
// AVX-512 with BF16, VBMI and VNNI, else AVX2 with FMA, else scalar. MINKE_ISA=scalar|avx2|avx512
// forces one (Error when the machine lacks it).
//
// Every file of ops/kernels is compiled once for each set, inside a namespace of that set. It
// defines a function that returns its table of kernels; KernelTable picks the table of the set in
// use.
#pragma once

#include <string_view>
#include <vector>

namespace minke::ops {

enum class Isa { kScalar = 0, kAvx2 = 1, kAvx512 = 2 };

Isa isa();
std::string_view isa_name(Isa isa);
inline std::string_view isa_name() { return isa_name(isa()); }
// The sets this machine has, scalar first.
std::vector<Isa> available_isas();
// For tests: forces a set that the machine has. Not to be called while ops run.
void set_isa(Isa isa);

// Picks one of three tables, in the order of Isa.
template <typename Table>
class KernelTable {
 public:
  KernelTable(const Table& scalar, const Table& avx2, const Table& avx512)
      : tables_{&scalar, &avx2, &avx512} {}
  const Table* operator->() const { return tables_[static_cast<int>(isa())]; }

 private:
  const Table* tables_[3];
};

}  // namespace minke::ops

// In a kernel's header: declares `const Table& name()` for every set.
#define MINKE_DECLARE_KERNELS(Table, name) \
  namespace scalar {                       \
  const Table& name();                     \
  }                                        \
  namespace avx2 {                         \
  const Table& name();                     \
  }                                        \
  namespace avx512 {                       \
  const Table& name();                     \
  }
// In an op's file: the table in use, `MINKE_KERNELS(kernels::NormKernels, norm_kernels)`.
#define MINKE_KERNELS(Table, name)                                         \
  (::minke::ops::KernelTable<Table>(::minke::ops::kernels::scalar::name(), \
                                    ::minke::ops::kernels::avx2::name(),   \
                                    ::minke::ops::kernels::avx512::name()))
