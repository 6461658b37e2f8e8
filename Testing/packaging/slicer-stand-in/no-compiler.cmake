# Toolchain for machines without a C compiler: nothing is compiled here, but project() asks for one as Slicer needs it.
foreach(language C CXX)
  set(CMAKE_${language}_COMPILER ${CMAKE_COMMAND})
  set(CMAKE_${language}_COMPILER_ID_RUN TRUE)
  set(CMAKE_${language}_COMPILER_FORCED TRUE)
endforeach()
