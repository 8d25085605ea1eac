#define IRF_ISA scalar
#include "cpu/kernels_table.h"
