/* Distances of two nodes: 10 to itself, 20 to the other. */

[0004]                          Signature : "SLIT"    [System Locality Information Table]
[0004]                       Table Length : 00000030
[0001]                           Revision : 01
[0001]                           Checksum : 9B
[0006]                             Oem ID : "ACPITK"
[0008]                       Oem Table ID : "ACPITK  "
[0004]                       Oem Revision : 00000001
[0004]                    Asl Compiler ID : "ATK "
[0004]              Asl Compiler Revision : 00000001

[0008]                         Localities : 0000000000000002
[0002]                       Locality   0 : 0A 14
[0002]                       Locality   1 : 14 0A
