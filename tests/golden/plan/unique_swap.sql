--- A swap by way of a third value makes a cycle: source order, uncollapsed.
-- table o: id int key, sku text:utf8mb4_0900_ai_ci unique, price decimal null
-- update o (1, b'a', None) -> (1, b'x', None)
-- update o (2, b'b', None) -> (2, b'a', None)
-- update o (1, b'x', None) -> (1, b'b', None)
--- An unconnected row is collapsed all the same.
-- update o (3, b'q', b'1') -> (3, b'r', b'1')
-- update o (3, b'r', b'1') -> (3, b'r', b'2')

UPDATE (VALUES ROW(3,'r',2)) AS n(c0,c1,c2) STRAIGHT_JOIN `o` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`sku`=n.c1,t.`price`=n.c2;
DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2));
UPDATE (VALUES ROW(1,'x',NULL)) AS n(c0,c1,c2) STRAIGHT_JOIN `o` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`sku`=n.c1,t.`price`=n.c2;
DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2));
UPDATE (VALUES ROW(2,'a',NULL)) AS n(c0,c1,c2) STRAIGHT_JOIN `o` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`sku`=n.c1,t.`price`=n.c2;
DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2));
UPDATE (VALUES ROW(1,'b',NULL)) AS n(c0,c1,c2) STRAIGHT_JOIN `o` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`sku`=n.c1,t.`price`=n.c2;
DO IF(ROW_COUNT()=1,0,(SELECT 1 UNION ALL SELECT 2));
